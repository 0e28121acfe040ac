"""The pictures of a report, as PNG files in memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from talk3d.evaluation.run import Evaluation, Shown
from talk3d.models.encoders import TOKENS
from talk3d.pictures import attention_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_DPI, _TILE = 110, 1.9  # inches
_FULL = 64  # levels of 255 at which a difference is brightest
_OURS, _TRUTH = "#d1495b", "#30638e"


def draw(found: Evaluation) -> dict[str, bytes]:
    """Draw ``strip``, ``curves``, and, if there is a driver, ``attention``."""
    pictures = {"strip": _strip(found), "curves": _curves(found)}
    if found.attention is not None:
        pictures["attention"] = _attention(found)
    return pictures


def _strip(found: Evaluation) -> bytes:
    """A column for each frame; truth, ours, difference, depth, and other views below one another."""
    names = ["truth", "ours", f"difference\n(0 to {_FULL})", "depth", *(view.title for view in found.report.views)]
    columns = len(found.shown)
    figure = _figure(_TILE * columns + 0.6, _TILE * len(names) + 0.3)
    axes = figure.subplots(len(names), columns, squeeze=False)
    near, far = _depths(found.shown)
    for column, frame in zip(axes.T, found.shown, strict=True):
        difference = np.abs(frame.ours.astype(np.float32) - frame.truth).mean(2)
        depth = np.where(frame.weight > 0.5, (far - frame.depth) / (far - near), np.nan)
        pictures = [frame.truth, frame.ours, difference, depth, *frame.views]
        for axis, picture in zip(column, pictures, strict=True):
            if picture is difference:
                axis.imshow(picture, cmap="inferno", vmin=0, vmax=_FULL)
            elif picture is depth:
                axis.set_facecolor("black")
                axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
            else:
                axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
        column[0].set_title(f"frame {frame.frame}", fontsize=8, pad=3)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, fontsize=8)
    return _png(figure)


def _depths(shown: list[Shown]) -> tuple[float, float]:
    """Between which depths nearly all of the person is, in all frames that are shown."""
    solid = np.concatenate([frame.depth[frame.weight > 0.5] for frame in shown])
    if not len(solid):
        return 0.0, 1.0
    near, far = np.percentile(solid, (1, 99))
    return float(near), float(max(far, near + 1e-6))


def _curves(found: Evaluation) -> bytes:
    curves = {name: np.array(curve, float) for name, curve in found.report.curves.items()}
    seen = [part for part in ("mouth", "eyes") if np.isfinite(curves[f"{part}_truth"]).any()]
    figure = _figure(11, 2.1 * (1 + len(seen)))
    axes = figure.subplots(1 + len(seen), 1, squeeze=False, sharex=True)[:, 0]
    frames = curves["frame"]
    for region, color in (("whole", "#888888"), ("face", _OURS)):
        # where frames are equal there is nothing to draw
        values = np.where(np.isfinite(curves[f"psnr_{region}"]), curves[f"psnr_{region}"], np.nan)
        _line(axes[0], frames, values, color, region)
    axes[0].set_ylabel("PSNR, dB", fontsize=8)
    labels = {"mouth": "mouth opening\n(of the eyes' distance)", "eyes": "eye opening\n(of the eye's width)"}
    for axis, part in zip(axes[1:], seen, strict=True):
        _line(axis, frames, curves[f"{part}_truth"], _TRUTH, "truth")
        _line(axis, frames, curves[f"{part}_ours"], _OURS, "ours")
        axis.set_ylabel(labels[part], fontsize=8)
        axis.set_ylim(bottom=0)
    for axis in axes:
        axis.legend(fontsize=7, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0.1)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3, linewidth=0.5)
        axis.margins(x=0.01)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel("frame of the dataset", fontsize=8)
    return _png(figure)


def _line(axis: Axes, frames: NDArray[np.float64], values: NDArray[np.float64], color: str, label: str) -> None:
    # a frame between two that are not known would not be seen without a mark
    axis.plot(frames, values, color=color, linewidth=1.1, marker=".", markersize=2.5, label=label)


def _attention(found: Evaluation) -> bytes:
    assert found.attention is not None
    maps, planes = found.attention
    side = 96
    figure = _figure(3.2 * len(maps) + 0.8, 5.4)
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for block, (axis, of_block) in enumerate(zip(axes, maps, strict=True)):
        axis.imshow(attention_picture(of_block, planes, side=side).numpy())
        axis.set_title(f"block {block + 1}", fontsize=9)
        axis.set_xticks((np.arange(3) + 0.5) * side, ["plane 1", "plane 2", "plane 3"], fontsize=8)
        axis.set_yticks((np.arange(len(of_block)) + 0.5) * side, TOKENS if block == 0 else [], fontsize=8)
        axis.tick_params(length=0)
        for plane in (1, 2):
            axis.axvline(plane * side - 0.5, color="white", linewidth=1)
        for token in range(1, len(of_block)):
            axis.axhline(token * side - 0.5, color="white", linewidth=1)
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
