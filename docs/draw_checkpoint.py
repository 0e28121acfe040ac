"""Draw ``docs/checkpoint.png``: what ``talk3d export --views`` shows of a converted training snapshot.

Published weights may not be redistributed, so a generator of the published architecture, though a small one, learns the
synthetic head, and is pickled in the layout of EG3D's snapshots. From there on it goes the way of any checkpoint:
``talk3d convert``, then ``talk3d export``. Run ``python docs/draw_checkpoint.py``; three minutes on two cores.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from rich.progress import track
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, interpolate

from talk3d import cli
from talk3d.data import synthetic
from talk3d.models.generator import GeneratorConfig, TriPlaneGenerator
from talk3d.ops import RenderOptions
from talk3d.weights.generator_names import generator_keys

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "weights"))

from conftest import OPTIONS, Layout  # noqa: E402  (the tests' writer of the published layout)

STEPS, VIEW, SIDE = 700, 64, 128
CONFIG = GeneratorConfig(
    rendering=RenderOptions(axes="original", near=2.25, far=3.3, coarse=24, fine=24, white_back=True),
    resolution=VIEW,
    superresolution="2x",
    z_dim=64,
    w_dim=64,
    plane_resolution=128,
    channel_base=4096,
    channel_max=64,
)


def pictures() -> tuple[Tensor, Tensor, Tensor]:
    """Cameras ``[N, 25]``, pictures over white ``[N, 3, 128, 128]`` from -1 to 1, and alpha ``[N, 1, 128, 128]``."""
    clip = synthetic.cached(track="talk")
    truth = clip.truth
    shots = [(view.camera, view.image, view.alpha) for view in truth.views]
    with av.open(str(clip.video)) as file:
        for index, frame in enumerate(file.decode(video=0)):
            if index % 15 == 0:
                shots.append((truth.cameras[index], frame.to_ndarray(format="rgb24"), truth.alpha(index)))
    cameras, images, alphas = (torch.from_numpy(np.stack(part)) for part in zip(*shots, strict=True))
    alpha = alphas[:, None].float() / 255
    image = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    plate = torch.from_numpy(truth.plate).permute(2, 0, 1).float() / 127.5 - 1
    over_white = image + (1 - alpha) * (1 - plate)
    return (
        cameras.float(),
        interpolate(over_white, (SIDE, SIDE), mode="area"),
        interpolate(alpha, (SIDE, SIDE), mode="area"),
    )


def teach(network: TriPlaneGenerator) -> None:
    """Teach a generator's mean latent the head."""
    cameras, images, alphas = pictures()
    small, outlines = (interpolate(part, (VIEW, VIEW), mode="area") for part in (images, alphas))
    options = CONFIG.rendering
    w = network.mapping.w_avg.normal_().expand(1, network.backbone.num_ws, -1)
    adam = torch.optim.Adam(network.parameters(), lr=4e-3, betas=(0.0, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS, eta_min=4e-4)
    for _ in track(range(STEPS), "Teaching a generator"):
        chosen = torch.randint(len(cameras), (1,))
        noise = [torch.rand(1, VIEW * VIEW, count) for count in (options.coarse, options.fine)]
        made = network(w, cameras[chosen], noise="none", jitter=noise[0], u=noise[1])
        raw = made.view.features[:, :3]
        loss = (raw - small[chosen]).abs().mean() + (made.image - images[chosen]).abs().mean()
        loss = loss + 0.3 * binary_cross_entropy(made.view.weight.clamp(1e-4, 1 - 1e-4), outlines[chosen])
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()


def pickle_published(network: TriPlaneGenerator, path: Path) -> None:
    """Write a training snapshot as EG3D does."""
    state = network.state_dict()
    tensors = {name: state[place.key] for name, place in generator_keys(network).items() if place}
    rendering = CONFIG.rendering
    options = OPTIONS | {
        "depth_resolution": rendering.coarse,
        "depth_resolution_importance": rendering.fine,
        "white_back": True,
        "c_scale": 1.0,
        "c_gen_conditioning_zero": False,
    }
    with pytest.MonkeyPatch.context() as patch, path.open("wb") as file:
        made = Layout(patch, path.with_name("mark")).snapshot(
            tensors, axes="original", neural_rendering_resolution=VIEW, rendering_kwargs=options
        )
        pickle.dump(made, file)


def main() -> None:
    """Teach, pickle, convert, export."""
    torch.manual_seed(0)
    network = TriPlaneGenerator(CONFIG)
    teach(network)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pickle_published(network, folder / "snapshot.pkl")
        for command in (
            ["convert", str(folder / "snapshot.pkl"), "--out", str(folder / "weights")],
            ["export", str(folder / "weights"), "--views", str(HERE / "checkpoint.png")],
        ):
            if code := cli.main(command):
                raise SystemExit(code)


if __name__ == "__main__":
    main()
