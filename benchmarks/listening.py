"""How well an avatar of the synthetic clip speaks sentences that it never heard.

    python benchmarks/listening.py AVATAR [--strip frames.png] [--json]

Ten seconds of other sentences are rendered from the clip's cameras, once as they are and once with the sound of other
moments. Our tracker reads the gap of the lips off the frames; its correlation with the opening that the phonemes ask
for (`talk3d.data.synthetic.speech.mouth`, which also moved the mouth of the clip) is what counts, at the best lag.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from talk3d.avatar import Avatar, BakedAvatar
from talk3d.data.synthetic import speech
from talk3d.evaluation.faces import FaceReader
from talk3d.evaluation.metrics import best_lag
from talk3d.memory import keep_freed_memory

LAGS = 5  # frames
STRANGE = 97  # frames by which the sound of other moments is late: no multiple of anything in the sentences
ENLARGED = 512  # the tracker sees faces of this size best
SHOWN = 10


def openings(baked: BakedAvatar, features: NDArray[np.float32]) -> tuple[NDArray[np.float64], list[NDArray[np.uint8]]]:
    """Gap of the lips in each frame that these features make, and the frames."""
    found, pictures = [], []
    with FaceReader() as reader:
        for frame in track(range(len(features)), "Rendering and tracking"):
            one = range(frame, frame + 1)
            picture = baked.compose(baked.speak(features, one), baked.behind(one))[0].cpu().numpy()
            pictures.append(picture)
            face = reader(np.asarray(Image.fromarray(picture).resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)))
            found.append(np.nan if face is None else face.mouth_opening)
    return np.array(found), pictures


@torch.inference_mode()
def run(avatar: Avatar) -> tuple[dict[str, Any], list[NDArray[np.uint8]]]:
    """Measure; also returns the frames."""
    utterance, baked = speech.load("held_out"), avatar.bake()
    with tempfile.TemporaryDirectory() as folder:
        wav, file = Path(folder, "speech.wav"), Path(folder, "features.npy")
        soundfile.write(wav, utterance.samples, speech.RATE, subtype="PCM_16")
        count = baked.encode_speech(wav, file)
        features = np.load(file)
    truth, _ = speech.mouth(utterance, np.arange(count) / 25)
    heard, pictures = openings(baked, features)
    strange, _ = openings(baked, np.roll(features, STRANGE, 0))
    lag, best = best_lag(heard, truth, LAGS)
    seen = np.isfinite(strange)
    return {
        "seconds": count / 25,
        "faces": float(np.isfinite(heard).mean()),
        "correlation": best,
        "lag": lag,
        "shuffled": float(np.corrcoef(strange[seen], truth[seen])[0, 1]),
    }, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("avatar", type=Path)
    parser.add_argument("--strip", type=Path, help="where to write some frames")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    results, pictures = run(Avatar.load(options.avatar))
    if options.strip:
        chosen = np.linspace(0, len(pictures) - 1, SHOWN).round().astype(int)
        Image.fromarray(np.concatenate([pictures[i] for i in chosen], 1)).save(options.strip)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(
        f"correlation {results['correlation']:.3f} at a lag of {results['lag']} frames over {results['seconds']:.1f} "
        f"s, {results['shuffled']:.3f} with the sound of other moments; faces in {100 * results['faces']:.0f} %"
    )


if __name__ == "__main__":
    main()
