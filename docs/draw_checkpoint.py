"""Draw ``docs/checkpoint.png``: a checkpoint in EG3D's published layout, converted and exported by the command line.

Run ``python docs/draw_checkpoint.py``; it takes some minutes on two cores. No published weights are at hand, so that a
small generator is taught what its average face is: the head of the synthetic clip. It is pickled as EG3D pickles.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, interpolate

from talk3d import cameras
from talk3d.data.synthetic import motion, speech
from talk3d.data.synthetic.picture import render
from talk3d.data.synthetic.record import SCALE, SHIFT
from talk3d.memory import keep_freed_memory
from talk3d.models.generator import GeneratorConfig, TriPlaneGenerator
from talk3d.ops import RenderOptions
from talk3d.training import losses
from talk3d.weights.generator_names import generator_keys

ROOT = Path(__file__).parents[1]
VIEWS, YAW, PITCH = 160, 40.0, 15.0  # pictures of the head, and how far around their cameras stand, degrees
STEPS, ENLARGED = 1800, 900  # the last of them with super-resolution
RATE, CHEAP = 8e-3, 16  # Adam's, falling to nothing; coarse and fine samples of a ray while it learns
CONFIG = GeneratorConfig(
    rendering=RenderOptions(axes="zy", white_back=True),
    resolution=64,
    superresolution="2x",
    z_dim=32,
    w_dim=64,
    plane_resolution=64,
    channel_base=2048,
    channel_max=48,
)


def film() -> tuple[Tensor, Tensor, Tensor]:
    """Cameras ``[N, 25]``, pictures ``[N, 3, 128, 128]`` from -1 to 1, and the person's share ``[N, 1, 128, 128]``."""
    performance = motion.perform("still", speech.load(), 25.0)
    rest = int(performance.face[:, 0].argmin())  # lips closed
    angles = np.random.default_rng(0).uniform(-1, 1, (VIEWS, 2)) * (YAW, PITCH)
    vectors, pictures, shares = [], [], []
    for yaw, pitch in angles:
        vectors.append(CONFIG.camera(float(yaw), float(pitch)))
        pose = cameras.unpack(vectors[-1])[0].double().numpy()
        pose[:3, 3] = (pose[:3, 3] - SHIFT) / SCALE  # centimetres of the head's frame
        pose = tuple((performance.head_to_world[rest] @ pose)[:3].ravel().tolist())
        white = np.ones((128, 128, 3), np.float32)
        color, share, _, _ = render(pose, CONFIG.focal, performance.scene(rest), white)
        pictures.append(torch.from_numpy(color).permute(2, 0, 1) / 127.5 - 1)
        shares.append(torch.from_numpy(share)[None] / 255)
    return torch.stack(vectors), torch.stack(pictures), torch.stack(shares)


def difference(found: Tensor, target: Tensor) -> Tensor:
    """Of colours, and of what makes them sharp."""
    return losses.l1(found, target) + 2 * losses.edges(found, target)


def teach(generator: TriPlaneGenerator) -> None:
    """Make the head the generator's average face."""
    vectors, pictures, shares = film()
    small, small_shares = (interpolate(part, (CONFIG.resolution,) * 2, mode="area") for part in (pictures, shares))
    generator.mapping.w_avg.normal_(generator=torch.Generator().manual_seed(0))
    ws = generator.mapping.w_avg.expand(1, generator.backbone.num_ws, -1)
    adam = torch.optim.Adam(generator.parameters(), RATE, betas=(0.9, 0.99))
    order = np.random.default_rng(0).integers(VIEWS, size=STEPS)
    options = RenderOptions(axes="zy", white_back=True, coarse=CHEAP, fine=CHEAP)
    for step, k in enumerate(order):
        adam.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        view = generator.render(generator.planes(ws), vectors[[k]], options=options)
        # a view over white: features add 1 - weight, so that they run from -1 to 1 too
        loss = difference(view.features[:, :3], small[[k]])
        loss = loss + 0.3 * binary_cross_entropy(view.weight.clamp(1e-4, 1 - 1e-4), small_shares[[k]])
        if step >= STEPS - ENLARGED:
            image = generator.superresolution(view.features, ws[:, -1])
            loss = loss + difference(image, pictures[[k]])
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % 50 == 49:
            print(f"step {step + 1} of {STEPS}: loss {loss.item():.3f}", flush=True)


def save(generator: TriPlaneGenerator, path: Path) -> None:
    """Pickle as the tests do, each module with its source."""
    sys.path.insert(0, str(ROOT / "tests" / "weights"))
    from conftest import OPTIONS, Layout

    state = generator.state_dict()
    tensors = {name: state[place.key] for name, place in generator_keys(generator).items() if place is not None}
    with pytest.MonkeyPatch.context() as patch:
        options = OPTIONS | {"white_back": True, "c_scale": 1.0}
        layout = Layout(patch, path.with_name("mark"))
        snapshot = layout.snapshot(tensors, axes="zy", neural_rendering_resolution=64, rendering_kwargs=options)
        path.write_bytes(pickle.dumps(snapshot))


def main() -> None:
    """Teach, pickle, convert, export."""
    keep_freed_memory()
    torch.manual_seed(0)
    generator = TriPlaneGenerator(CONFIG)
    teach(generator)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, converted = Path(folder) / "network-snapshot.pkl", Path(folder) / "head"
        save(generator, checkpoint)
        for arguments in (
            ("convert", checkpoint, "--out", converted),
            ("export", converted, "--views", Path(__file__).with_name("checkpoint.png")),
        ):
            subprocess.run([sys.executable, "-m", "talk3d", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
