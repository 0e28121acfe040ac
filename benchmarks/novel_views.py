"""How well an avatar of the synthetic clip looks from where the clip never looked.

    python benchmarks/novel_views.py CLIP DATASET AVATAR [--sheet views.png] [--json]

CLIP is what `talk3d.data.synthetic.write` wrote, DATASET what `talk3d prepare` made of it, AVATAR what was fitted to
that. The truth shows held-out frames at yaw +-30 and +-45 degrees; ours is the person at rest, seen by the true camera.

The dataset's world is not the truth's: a tracker may place a head as it likes. One similarity for the whole clip, from
training frames, takes one to the other: by it, the true cameras see the dataset's face mesh where its own see it.

All is measured within the window that the crop of the frame shows:

- PSNR, over that of the unrotated frame, which is what a picture on a wall would give;
- silhouette: intersection over union with the person;
- depth: median error over the head, a share of the head's width; where nothing is rendered, the error is infinite;
- cameras: yaw and pitch of each training frame's camera against the truth, and how far its rays miss, in pixels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from talk3d import cameras as cams
from talk3d.avatar import Avatar
from talk3d.data.dataset import Dataset
from talk3d.data.synthetic import SyntheticClip, Truth, View
from talk3d.models.compositing import composite
from talk3d.models.identity import Identity
from talk3d.poses import make_pose
from talk3d.training.pictures import gray, grid, pixels, shape_pictures

CENTIMETRES = 1 / 0.027  # of a unit of the truth's world


class Similarity(NamedTuple):
    """From the dataset's world to the truth's: ``scale * rotation @ x + shift``."""

    rotation: Tensor
    shift: Tensor
    scale: Tensor

    def points(self, points: Tensor) -> Tensor:
        return self.scale * points @ self.rotation.T + self.shift

    def back(self, pose: Tensor) -> Tensor:
        """A camera pose of the truth's world in the dataset's."""
        position = (pose[:3, 3] - self.shift) @ self.rotation / self.scale
        return make_pose(self.rotation.T @ pose[:3, :3], position)


class Window(NamedTuple):
    """What a crop shows, as a true camera sees it.

    Attributes:
        pose: ``cam2world`` in the truth's world; turned about its axis as the crop is.
        intrinsics: Of the crop.
        grid: Where the crop's pixels are in the truth's picture ``[1, S, S, 2]``, for grid_sample.
    """

    pose: Tensor
    intrinsics: Tensor
    grid: Tensor


def window(camera: NDArray[np.float64], crop: NDArray[np.float64], truth_size: int, size: int) -> Window:
    """Cut a true camera's picture as a crop, a similarity ``[2, 3]`` from source to crop pixels, does."""
    pose, matrix = cams.unpack(torch.from_numpy(np.asarray(camera, float)))
    scale = float(np.hypot(*crop[:, 0]))
    turn = torch.from_numpy(crop[:, :2] / scale)
    axes = torch.eye(3, dtype=torch.float64)
    axes[:2, :2] = turn
    center = torch.from_numpy(crop) @ torch.tensor([truth_size / 2, truth_size / 2, 1.0], dtype=torch.float64) / size
    focal = float(matrix[0, 0]) * truth_size * scale / size
    intrinsics = cams.intrinsics(torch.tensor(focal, dtype=torch.float64), cx=center[0], cy=center[1])
    back = np.linalg.inv(np.vstack((crop, [0, 0, 1])))[:2]
    x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    source = np.stack((x, y, np.ones_like(x)), -1) @ back.T
    return Window(
        make_pose(pose[:3, :3] @ axes.T, pose[:3, 3]),
        intrinsics,
        torch.from_numpy(2 * source / truth_size - 1).float()[None],
    )


def align(mesh: Tensor, cameras: Tensor, windows: list[Window]) -> tuple[Similarity, float]:
    """Find the similarity; also returns by how much a mesh's points miss, root mean square in crop sides."""
    poses, matrices = torch.stack([w.pose for w in windows]), torch.stack([w.intrinsics for w in windows])
    own = project(mesh, *cams.unpack(cameras))
    center = mesh.mean(0)
    numbers = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([numbers], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def found() -> Similarity:
        x, y, z = numbers[:3]
        zero = torch.zeros_like(x)
        turn = torch.matrix_exp(torch.stack((zero, -z, y, z, zero, -x, -y, x, zero)).view(3, 3))
        scale = numbers[6].exp()
        return Similarity(turn, center + numbers[3:6] - scale * turn @ center, scale)

    def error() -> Tensor:
        return (project(found().points(mesh), poses, matrices) - own).square().sum(-1).mean()

    def closure() -> Tensor:
        solver.zero_grad()
        loss = 1e4 * error()
        loss.backward()
        return loss

    solver.step(closure)
    with torch.no_grad():
        return Similarity(*(part.detach() for part in found())), float(error().sqrt())


def project(points: Tensor, poses: Tensor, intrinsics: Tensor) -> Tensor:
    """Points ``[V, 3]`` in pictures ``[K, V, 2]``, the sides being 1."""
    seen = (points - poses[:, None, :3, 3]) @ poses[:, :3, :3] @ intrinsics.mT
    return seen[..., :2] / seen[..., 2:]


def camera_errors(similarity: Similarity, cameras: Tensor, windows: list[Window]) -> dict[str, float]:
    """Mean absolute yaw and pitch error of cameras ``[K, 25]``, degrees.

    Compared are lines of sight through the centre of the crop: a crop's own camera looks there.
    """
    errors = []
    for camera, seen in zip(cameras, windows, strict=True):
        pose, _ = cams.unpack(camera)
        center = torch.linalg.solve(seen.intrinsics, torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64))
        true = seen.pose[:3, :3] @ center
        ours = similarity.rotation @ pose[:3, 2]
        angles = [_yaw_pitch(sight) for sight in (ours, true)]
        errors.append((angles[0] - angles[1]).abs())
    yaw, pitch = torch.stack(errors).mean(0).tolist()
    return {"yaw": yaw, "pitch": pitch}


def _yaw_pitch(sight: Tensor) -> Tensor:
    x, y, z = -sight / sight.norm()
    return torch.rad2deg(torch.stack((torch.atan2(x, z), torch.asin(y))))


class Measured(NamedTuple):
    """One view."""

    yaw: float
    psnr: float
    unrotated: float
    overlap: float
    depth: float
    pictures: list[Tensor]


def measure(view: View, dataset: Dataset, identity: Identity, similarity: Similarity, width: float) -> Measured:
    """Compare with a view of the truth, whose head is so many centimetres wide."""
    frame, size = view.frame, dataset.size
    cut = window(view.camera, dataset.crops[frame], len(view.image), size)
    camera = cams.pack(similarity.back(cut.pose), cut.intrinsics).float()[None]
    rendered = identity.render(identity.planes, camera)
    sample = dataset.sample([frame])
    plate = interpolate(sample.plate, (256, 256), mode="area") if size != 256 else sample.plate
    ours = composite(identity.enlarge(rendered), rendered.weight, plate)
    ours = interpolate(ours, (size, size), mode="bilinear") if ours.shape[3] != size else ours
    picture = _cut(torch.from_numpy(view.image).permute(2, 0, 1) / 127.5 - 1, cut, "bilinear")
    person, head = (
        _cut(torch.from_numpy(view.mask(name))[None].float(), cut, "nearest")[0] > 0.5 for name in ("person", "head")
    )
    true_depth = _cut(torch.from_numpy(view.depth)[None], cut, "nearest")[0]
    weight = interpolate(rendered.weight, (size, size), mode="bilinear")[0, 0]
    _, directions = cams.rays(*cams.unpack(camera), rendered.depth.shape[3])
    along = (directions @ camera[0, :16].view(4, 4)[:3, 2]).view_as(rendered.depth)
    depth = interpolate(rendered.depth * along, (size, size), mode="bilinear")[0, 0]
    depth = depth * float(similarity.scale) * CENTIMETRES
    error = torch.where(weight > 0.5, (depth - true_depth).abs(), torch.inf)[head]
    opaque = weight > 0.5
    return Measured(
        view.yaw,
        _psnr(ours[0], picture),
        _psnr(sample.image[0], picture),
        float((opaque & person).sum() / (opaque | person).sum()),
        float(error.median()) / width,
        [pixels(picture), pixels(ours[0].clamp(-1, 1)), *map(_to(size), shape_pictures(rendered, camera)),
         gray(((depth - true_depth).abs() / width * 255 * 8).clamp(0, 255).masked_fill(~head, 0).byte())],
    )  # fmt: skip


def _to(size: int):
    def enlarge(picture: Tensor) -> Tensor:
        big = interpolate(picture.permute(2, 0, 1)[None].float(), (size, size), mode="nearest")
        return big[0].permute(1, 2, 0).byte()

    return enlarge


def _cut(picture: Tensor, cut: Window, mode: str) -> Tensor:
    return grid_sample(picture[None].float(), cut.grid, mode=mode, padding_mode="border", align_corners=False)[0]


def _psnr(found: Tensor, target: Tensor) -> float:
    return float(-10 * torch.log10(((found.clamp(-1, 1) - target) / 2).square().mean()))


def head_width(truth: Truth, frame: int) -> float:
    """How wide the head looks in a frame, centimetres."""
    mask, depth = truth.mask(frame, "head"), truth.depth(frame)
    columns = np.flatnonzero(mask.any(0))
    return float((columns[-1] - columns[0] + 1) / len(mask) / truth.intrinsics[0, 0] * np.median(depth[mask]))


@torch.no_grad()
def run(clip: SyntheticClip, dataset: Dataset, identity: Identity, cameras: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Measure everything; also returns pictures of one frame's views: truth, ours, depth, normals, depth error."""
    truth, size = clip.truth, dataset.size
    frames = [i for i in dataset.splits["train"] if dataset.valid[i]]
    tracked, refined = torch.from_numpy(dataset.cameras).double(), cameras.double()
    windows = [window(truth.cameras[i], dataset.crops[i], dataset.meta.frame_size[0], size) for i in frames]
    mesh = torch.from_numpy(dataset.mesh).double()[:468]
    with torch.enable_grad():
        similarity, miss = align(mesh, refined[frames], windows)
        before, _ = align(mesh, tracked[frames], windows)
    found = [measure(view, dataset, identity, similarity, head_width(truth, view.frame)) for view in truth.views]
    results: dict[str, Any] = {
        "cameras": camera_errors(similarity, refined[frames], windows) | {"miss_pixels": miss * size},
        "tracked": camera_errors(before, tracked[frames], windows),
        "views": {},
    }
    for yaw in (30.0, 45.0):
        chosen = [m for m in found if abs(m.yaw) == yaw]
        mean = {name: float(np.mean([getattr(m, name) for m in chosen])) for name in Measured._fields[1:5]}
        results["views"][f"{yaw:.0f}"] = mean | {"gain": mean["psnr"] - mean["unrotated"]}
    return results, grid([m.pictures for m in found[20:24]])


def show(results: dict[str, Any]) -> Table:
    """The table."""
    table = Table("yaw", "PSNR", "unrotated", "gain dB", "outline IoU", "depth error %")
    for yaw, m in results["views"].items():
        numbers = (m["psnr"], m["unrotated"], m["gain"])
        table.add_row(f"±{yaw}", *(f"{n:.2f}" for n in numbers), f"{m['overlap']:.3f}", f"{100 * m['depth']:.1f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("avatar", type=Path)
    parser.add_argument("--sheet", type=Path, help="where to write pictures")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    dataset, avatar = Dataset(options.dataset), Avatar.load(options.avatar)
    cameras = avatar.motion.cameras if avatar.motion else torch.from_numpy(dataset.cameras)  # refined, or as tracked
    results, sheet = run(SyntheticClip(options.clip), dataset, avatar.identity, cameras)
    if options.sheet:
        Image.fromarray(sheet.numpy()).save(options.sheet)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    console = Console()
    console.print(show(results))
    for name in ("tracked", "cameras"):
        console.print(f"{name}: yaw {results[name]['yaw']:.2f}, pitch {results[name]['pitch']:.2f} degrees off")


if __name__ == "__main__":
    main()
