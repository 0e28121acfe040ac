"""Draw ``docs/cameras.png``: the camera convention, as the cameras that it explains see it.

Run ``python docs/draw_cameras.py`` after a change of :mod:`talk3d.cameras`. Needs matplotlib.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from talk3d import cameras

AXES = {"x": "#d1495b", "y": "#2e933c", "z": "#2d6cdf"}
INK, PALE, SKIN, VIOLET, AMBER = "#22223b", "#a9acba", "#f6e9dd", "#7b2cbf", "#c06c00"
HEAD = torch.tensor((0.22, 0.29, 0.25))  # half axes of an ellipsoid around the origin
TURN = 40.0  # yaw and pitch of the turned cameras in the large drawing


class View:
    """World coordinates drawn into matplotlib axes through a camera; u runs to the right, v down, both from 0 to 1."""

    def __init__(self, ax: Axes, cam2world: Tensor, focal: float) -> None:
        self.ax, self.eye, self.focal = ax, cam2world[:3, 3], focal
        self.world2cam = torch.linalg.inv(cam2world)
        ax.set_aspect("equal")

    def project(self, points: Tensor) -> Tensor:
        x, y, z = (points @ self.world2cam[:3, :3].T + self.world2cam[:3, 3]).unbind(-1)
        return 0.5 + self.focal * torch.stack((x / z, y / z), -1)

    def line(self, points: Tensor, color: str, width: float, style: str = "-") -> None:
        self.ax.plot(*self.project(points).T, style, color=color, lw=width, solid_capstyle="round")

    def arrow(self, points: Tensor, color: str, width: float = 1.8) -> None:
        self.line(points, color, width)
        tail, tip = self.project(points[-2:])
        style = {"arrowstyle": "-|>", "color": color, "lw": width, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 11}
        self.ax.annotate("", xy=tip, xytext=tail, arrowprops=style)

    def text(
        self, point: Tensor, label: str, color: str, shift: tuple[float, float] = (0, 0), size: float = 10
    ) -> None:
        place = {"xytext": shift, "textcoords": "offset points", "ha": "center", "va": "center"}
        clear = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
        self.ax.annotate(label, self.project(point), color=color, fontsize=size, bbox=clear, **place)


def draw_axes(view: View, axes: Tensor, origin: Tensor, length: float, *, named: bool) -> None:
    for axis, (name, color) in zip(axes, AXES.items(), strict=True):
        view.arrow(torch.stack((origin, origin + length * axis)), color)
        if named:
            view.text(origin + 1.2 * length * axis, name, color, size=11)


def draw_head(view: View, width: float) -> None:
    turn = torch.linspace(0, 2 * torch.pi, 97)
    # the silhouette, where the head is a unit sphere: a circle around the direction of the eye
    toward = view.eye / HEAD
    height = 1 / toward.norm()
    toward = toward * height
    side = torch.nn.functional.normalize(torch.linalg.cross(toward, torch.tensor((0.1, 1.0, 0.0))), dim=0)
    circle = turn[:, None].cos() * side + turn[:, None].sin() * torch.linalg.cross(toward, side)
    silhouette = view.project((toward * height + (1 - height**2).sqrt() * circle) * HEAD)
    view.ax.fill(*silhouette.T, facecolor=SKIN, edgecolor=INK, lw=width)

    above, below = turn[:49], turn[48:]
    strokes = [(-0.08, 0.04, 0.036, 0.022, turn), (0.08, 0.04, 0.036, 0.022, turn)]  # centre, half axes, part of a turn
    strokes += [(-0.08, 0.08, 0.05, 0.025, above), (0.08, 0.08, 0.05, 0.025, above), (0.0, -0.11, 0.075, 0.04, below)]
    for x, y, across, up, part in strokes:
        plane = torch.stack((x + across * part.cos(), y + up * part.sin()), -1)
        depth = HEAD[2] * (1 - (plane / HEAD[:2]).square().sum(-1, keepdim=True)).sqrt()
        skin = torch.cat((plane, depth), -1)
        hidden = ((view.eye - skin) * skin / HEAD**2).sum(-1) < 0
        view.line(skin.masked_fill(hidden[:, None], torch.nan), INK, width)
    nose = torch.tensor([(0.0, 0.04, 0.247), (0.0, -0.035, 0.30), (0.0, -0.05, 0.245)])
    view.line(nose, INK, width)


def draw_camera(view: View, cam2world: Tensor, color: str, *, named: bool) -> None:
    size = 0.17
    corners = torch.tensor([(0.0, 0, 0), (-1, -1, 1.9), (1, -1, 1.9), (1, 1, 1.9), (-1, 1, 1.9)]) * size
    corners = corners @ cam2world[:3, :3].T + cam2world[:3, 3]
    for loop in ((0, 1, 2, 0, 3, 4, 0), (1, 4), (2, 3)):
        view.line(corners[list(loop)], color, 1.3)
    draw_axes(view, cam2world[:3, :3].T, cam2world[:3, 3], 0.62, named=named)


def draw_world(ax: Axes) -> None:
    view = View(ax, cameras.look_at(56.0, 18.0, radius=12.0), 2.6)
    origin, pivot = torch.zeros(3), torch.tensor(cameras.FFHQ_PIVOT)
    corners = torch.cartesian_prod(*[torch.tensor((-0.5, 0.5))] * 3)
    for pair in torch.combinations(torch.arange(8)):
        if (corners[pair[0]] != corners[pair[1]]).sum() == 1:
            view.line(corners[pair], PALE, 0.8)
    draw_head(view, 1.1)
    draw_axes(view, torch.eye(3), origin, 1.0, named=True)

    sweep = torch.linspace(0, TURN, 33)
    by_yaw, by_pitch = cameras.look_at(sweep, 0.0), cameras.look_at(0.0, sweep)
    for poses, color, label, shift in ((by_yaw, VIOLET, "+ yaw", (4, -16)), (by_pitch, AMBER, "+ pitch", (36, -2))):
        view.line(poses[:, :3, 3], color, 1.0, ":")
        view.arrow(poses[9:24, :3, 3], color, 2.2)
        view.text(poses[16, :3, 3], label, color, shift, size=13)
    for pose, color in ((by_yaw[0], INK), (by_yaw[-1], VIOLET), (by_pitch[-1], AMBER)):
        view.line(torch.stack((pose[:3, 3], pivot)), color, 0.8, "--")
        draw_camera(view, pose, color, named=color == INK)
    ax.plot(*view.project(pivot), "o", color=INK, ms=5, zorder=5)
    leader = {"arrowstyle": "-", "color": INK, "lw": 0.7}
    ax.annotate("", view.project(pivot), (36, -54), textcoords="offset points", arrowprops=leader)
    notes = [(pivot, "pivot (0, 0, 0.2)", (50, -60)), (by_yaw[0, :3, 3], "frontal camera\n(0, 0, 2.7)", (84, 50))]
    notes += [(corners[5], "box of side 1", (72, -3)), (by_yaw[-1, :3, 3], f"yaw {TURN:.0f}°", (32, -24))]
    notes += [(by_pitch[-1, :3, 3], f"pitch {TURN:.0f}°", (0, 13))]
    for point, label, shift in notes:
        view.text(point, label, INK, shift, size=9.5)
    ax.invert_yaxis()
    ax.axis("off")
    ax.margins(0.05)


def draw_picture(ax: Axes, title: str, cam2world: Tensor) -> None:
    view = View(ax, cam2world, cameras.TALK3D_FOCAL)
    ax.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    draw_head(view, 1.3)
    ax.set_title(title, fontsize=11, color=INK)


def draw_pixels(ax: Axes, height: int = 3, width: int = 4) -> None:
    ax.set_aspect(height / width)
    ax.set(xlim=(0, 1), ylim=(1, 0), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], xlabel="u")
    ax.set_ylabel("v", rotation=0, labelpad=8)
    ax.set_title(f"rays, resolution ({height}, {width})", fontsize=11, color=INK, y=-0.17)
    for column in range(1, width):
        ax.axvline(column / width, color=PALE, lw=0.8)
    for row in range(1, height):
        ax.axhline(row / height, color=PALE, lw=0.8)
    for ray in range(height * width):
        row, column = divmod(ray, width)
        u, v = (column + 0.5) / width, (row + 0.5) / height
        ax.plot(u, v, "o", color=INK, ms=3)
        ax.annotate(str(ray), (u, v), (0, -9), textcoords="offset points", ha="center", va="center", fontsize=8)
    ax.xaxis.set_label_position("top")
    ax.xaxis.tick_top()


def main() -> None:
    """Draw the file next to this script."""
    figure = plt.figure(figsize=(12, 7.4), dpi=120, facecolor="white")
    grid = figure.add_gridspec(3, 3, height_ratios=(1, 1, 0.8), width_ratios=(3.4, 1, 1), hspace=0.26, wspace=0.12)
    grid.update(left=0.01, right=0.98, bottom=0.055, top=0.955)
    draw_world(figure.add_subplot(grid[:, 0]))
    pictures = {
        "frontal": cameras.look_at(0.0, 0.0),
        "yaw +30°": cameras.look_at(30.0, 0.0),
        "pitch +20°": cameras.look_at(0.0, 20.0),
        "roll +15°": cameras.look_at(0.0, 0.0, 15.0),
    }
    for index, (title, pose) in enumerate(pictures.items()):
        draw_picture(figure.add_subplot(grid[index // 2, 1 + index % 2]), title, pose)
    draw_pixels(figure.add_subplot(grid[2, 1:]))
    figure.savefig(Path(__file__).with_name("cameras.png"))


if __name__ == "__main__":
    main()
