"""Whether a video trembles more than what it was learned from.

    python benchmarks/steadiness.py AVATAR DATASET [--json]

Still: with all tokens and the camera constant, frames are compared bit by bit before they are encoded, one at a time
and four at a time.

Tracked: the clip's own speech from its own cameras. Our tracker reads the rigid points of the face (forehead, nose,
corners of the eyes) off each frame, and off the filmed crop at the same size; the mean length of their second
difference in time is how much they tremble. A camera that follows the face takes most of its motion out of both.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from talk3d.audio import windows
from talk3d.avatar import Avatar, BakedAvatar
from talk3d.data.dataset import Dataset
from talk3d.data.facemesh import RIGID
from talk3d.data.track import FaceTracker
from talk3d.memory import keep_freed_memory
from talk3d.models import Conditions

ENLARGED = 512  # the tracker sees faces of this size best


@torch.inference_mode()
def change_at_rest(baked: BakedAvatar, features: NDArray[np.float32]) -> float:
    """Largest difference between frames of which nothing changes."""
    moves = baked.moves(range(1))
    heard = torch.from_numpy(windows(features, range(1)))
    tokens = baked.tokens(heard, Conditions(moves.blink, moves.angles, moves.landmarks))
    largest = 0.0
    for batch in (1, 4):
        runs = [baked.frames(tokens.expand(batch, -1, -1), moves.cameras.expand(batch, -1)).image for _ in range(3)]
        frames = torch.cat(runs)
        largest = max(largest, (frames - frames[:1]).abs().max().item())
    return largest


def tremor(points: list[NDArray[np.float64]]) -> float:
    """Mean length of the second difference of points ``[N, R, 2]``, in pixels."""
    return float(np.linalg.norm(np.diff(np.stack(points), 2, axis=0), axis=-1).mean())


@torch.inference_mode()
def run(avatar: Avatar, dataset: Dataset) -> dict[str, Any]:
    """Measure."""
    baked, features = avatar.bake(), np.asarray(dataset.features)
    found: dict[str, list[NDArray[np.float64]]] = {"filmed": [], "rendered": []}
    trackers = {name: FaceTracker() for name in found}
    for frame in track(range(len(dataset)), "Rendering and tracking"):
        one = range(frame, frame + 1)
        rendered = baked.compose(baked.speak(features, one), baked.behind(one))[0].numpy()
        filmed = np.asarray(Image.fromarray(dataset.picture(frame)).resize(rendered.shape[1::-1], Image.Resampling.BOX))
        for name, picture in (("filmed", filmed), ("rendered", rendered)):
            large = Image.fromarray(picture).resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)
            found[name].append(trackers[name](np.asarray(large))[0, list(RIGID), :2].astype(np.float64))
    return {"at rest": change_at_rest(baked, features)} | {name: tremor(points) for name, points in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("avatar", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    results = run(Avatar.load(options.avatar), Dataset(options.data))
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(
        f"at rest, largest change: {results['at rest']:g}\n"
        f"tremor, pixels of {ENLARGED}: rendered {results['rendered']:.3f}, filmed {results['filmed']:.3f}"
    )


if __name__ == "__main__":
    main()
