"""Draw ``docs/demo.jpg`` of what ``talk3d demo`` has made: run ``python docs/draw_demo.py demo`` after it.

Rows: frames that were not trained on, as filmed and as rendered; the same moments from a side, and their depth.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from talk3d.avatar import Avatar
from talk3d.data.dataset import Dataset
from talk3d.evaluation.playback import Playback
from talk3d.pictures import depth_picture

COLUMNS, SIDE, YAW = 5, 192, 30.0


def sized(picture: torch.Tensor) -> np.ndarray:
    """Bring a picture ``[H, W, 3]`` (uint8) to the size of a tile."""
    return np.asarray(Image.fromarray(picture.cpu().numpy()).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


@torch.inference_mode()
def main(folder: Path) -> None:
    """Draw."""
    dataset, avatar = Dataset(folder / "data"), Avatar.load(folder / "avatar")
    playback, config = Playback(avatar, dataset, dtype=torch.float32, batch=1), avatar.identity.config
    frames = list(dataset.splits["test"])
    near, far = config.radius - 0.35, config.radius + 0.15
    columns = []
    for k in range(COLUMNS):
        frame = frames[(2 * k + 1) * len(frames) // (2 * COLUMNS)]
        sample = playback.sample([frame])
        tokens = playback.tokens(sample)
        front = playback(sample, tokens)
        side = playback(sample, tokens, config.camera(YAW if k % 2 else -YAW))
        depth = depth_picture(side.depth[0], near, far)
        depth = depth.where(interpolate(side.weight[None], depth.shape)[0, 0] > 0.5, torch.full_like(depth, 255))
        tiles = [torch.from_numpy(dataset.picture(frame)), front.pictures[0], side.pictures[0]]
        tiles.append(depth[..., None].expand(-1, -1, 3).contiguous())
        columns.append(np.concatenate([sized(tile) for tile in tiles]))
    Image.fromarray(np.concatenate(columns, axis=1)).save(Path(__file__).with_name("demo.jpg"), quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
