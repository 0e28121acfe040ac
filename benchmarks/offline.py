"""What a video costs beyond its frames, and whether a long one needs more memory.

    python benchmarks/offline.py AVATAR [--frames 1600] [--json]

Speed: chunks of 100 frames are rendered as `talk3d render` does (render, composite, copy, encode), in turns with the
bare model loop over the same frames in the same process; the first chunk warms up and does not count. Start-up
(loading, baking, speech features) and joining are told apart.

Memory: peak resident memory of `talk3d render` in processes of their own, 10 seconds and 10 minutes of speech, with an
avatar that this script makes, whose planes have 16 x 16 texels and whose video has 64 x 64 pixels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from paired import Spread, interleave, ratios
from talk3d.audio import windows
from talk3d.avatar import Avatar, BakedAvatar
from talk3d.data.synthetic import speech
from talk3d.memory import keep_freed_memory
from talk3d.models import ConditionEncoder, Conditions, DeltaUNet, Driver, Identity, SceneConfig
from talk3d.ops import RenderOptions
from talk3d.rendering.cameras import camera_path
from talk3d.rendering.frames import Renderer
from talk3d.rendering.job import RenderJob
from talk3d.rendering.render import render_chunk
from talk3d.rendering.video import join

CHUNK = 100
SHORT, LONG = 10, 600  # seconds

MEASURED = """
import resource, sys
from talk3d.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def say(path: Path, seconds: float) -> Path:
    """The bundled sentences, over and over."""
    utterance = speech.load("talk")
    samples = np.resize(utterance.samples, round(seconds * speech.RATE))
    soundfile.write(path, samples, speech.RATE, subtype="PCM_16")
    return path


@torch.inference_mode()
def bare(baked: BakedAvatar, features: np.ndarray, frames: range) -> None:
    """The model and nothing else: tokens and frames."""
    for frame in frames:
        one = range(frame, frame + 1)
        moves = baked.moves(one)
        heard = torch.from_numpy(windows(features, one))
        tokens = baked.tokens(heard, Conditions(moves.blink, moves.angles, moves.landmarks))
        baked.frames(tokens, moves.cameras)


def speed(folder: Path, frames: int, parts: Path) -> dict[str, Any]:
    """Frames a second of the pipeline over those of the model, chunk by chunk."""
    audio = say(parts / "speech.wav", frames / 25)
    begun = time.perf_counter()
    baked = Avatar.load(folder).bake()
    baked.encode_speech(audio, parts / "features.npy")
    features = np.load(parts / "features.npy", mmap_mode="r")
    started = time.perf_counter() - begun
    job = RenderJob(avatar=str(folder), audio=str(audio), out=str(parts / "out.mp4"), chunk=CHUNK)
    renderer = Renderer(baked, camera_path("track", baked.config))
    seconds: dict[str, list[float]] = {"pipeline": [], "bare": []}
    for side, chunk in interleave(list(seconds), frames // CHUNK):
        begun = time.perf_counter()
        if side == "pipeline":
            render_chunk(job, renderer, features, chunk, parts / f"{chunk}.mp4")
        else:
            bare(baked, features, range(chunk * CHUNK, (chunk + 1) * CHUNK))
        seconds[side].append(time.perf_counter() - begun)
    begun = time.perf_counter()
    join([parts / f"{chunk}.mp4" for chunk in range(frames // CHUNK)], audio, frames, parts / "out.mp4")
    joined = time.perf_counter() - begun
    share = ratios(seconds["bare"][1:], seconds["pipeline"][1:])
    rate = Spread(tuple(CHUNK / taken for taken in seconds["pipeline"][1:]))
    return {
        "share": share.median,
        "quartiles": share.quartiles,
        "frames a second": rate.median,
        "frames": frames - CHUNK,
        "start-up seconds": started,
        "joining seconds": joined,
    }


def small_avatar() -> Avatar:
    """An avatar as small as can be, opaque here and there."""
    torch.manual_seed(0)
    rendering = RenderOptions(axes="zy", near="auto", far="auto", coarse=8, fine=0)
    config = SceneConfig(rendering=rendering, resolution=16, superresolution="2x", w_dim=8, plane_resolution=16)
    identity = Identity(config)
    torch.nn.init.normal_(identity.planes)
    unet = DeltaUNet(axes="zy", resolution=16)
    facts = {"features": {"name": "logmel", "width": 80, "mean": -2.0, "scale": 1.0}}
    return Avatar(identity, Driver(unet, ConditionEncoder(80)), facts=facts)


def peak_memory(avatar: Path, seconds: float, work: Path) -> int:
    """Bytes of resident memory, at most, that a render of so much speech takes."""
    audio, out = say(work / f"{seconds}.wav", seconds), work / f"{seconds}.mp4"
    command = ["render", str(avatar), "--audio", str(audio), "--out", str(out), "--resolution", "64", "--json"]
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a render of {seconds} s: {done.stderr.strip()}")
    return 1024 * int(done.stdout.rsplit("peak ", 1)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("avatar", type=Path)
    parser.add_argument("--frames", type=int, default=1600)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "parts").mkdir()
        results = speed(options.avatar, options.frames, work / "parts")
        small_avatar().save(work / "small")
        short, long = (peak_memory(work / "small", seconds, work) for seconds in (SHORT, LONG))
    results["memory"] = {"10 s": short, "10 min": long, "ratio": long / short}
    if options.json:
        print(json.dumps(results, indent=2))
        return
    low, high = results["quartiles"]
    print(
        f"{results['frames']} frames: {results['frames a second']:.1f} a second, "
        f"{results['share']:.3f} [{low:.3f}, {high:.3f}] of the bare model's\n"
        f"start-up {results['start-up seconds']:.1f} s, joining {results['joining seconds']:.1f} s\n"
        f"peak memory {short / 2**20:.0f} MiB for 10 s, {long / 2**20:.0f} MiB for 10 min: {long / short:.3f} x"
    )


if __name__ == "__main__":
    main()
