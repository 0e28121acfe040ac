"""One picture, and one page, by which a person judges a dataset."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from numpy.typing import NDArray

from talk3d.data.crop import cut
from talk3d.data.dataset import Dataset
from talk3d.data.facemesh import EYES, LIPS, OVAL
from talk3d.data.regions import NAMES
from talk3d.data.transforms import apply, inverse

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["write_overview"]

_WIDTH, _DPI = 16.0, 100
_COLORS = {"face": (0.95, 0.65, 0.25), "mouth": (0.9, 0.15, 0.3), "eyes": (0.15, 0.5, 0.95), "torso": (0.25, 0.7, 0.4)}
_SPLITS = {"train": "#e8eef7", "val": "#fdf0d5", "test": "#e3f1e1"}
_PLOTS = 5  # rows of curves


def write_overview(dataset: Dataset, shown: dict[int, NDArray[np.uint8]]) -> None:
    """Draw ``overview.png`` and ``overview.html`` into a dataset.

    Args:
        dataset: What to show.
        shown: Whole pictures of some frames.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frames = sorted(shown)
    columns = len(frames)
    height, width = dataset.plate.shape[:2]
    tile = _WIDTH / columns
    wide = min(max(height / width, 0.5), 1.6) * tile
    notes = [f"{note.kind}: {note.text}" for note in dataset.meta.notes] or ["Nothing had to be repaired."]
    rows = [wide, tile, tile, *[1.15] * _PLOTS, 0.35 + 0.2 * len(notes)]
    figure = Figure((_WIDTH, sum(rows) + 1.6), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(dataset), fontsize=12)
    grid = figure.add_gridspec(len(rows), columns, height_ratios=rows)
    for column, frame in enumerate(frames):
        axes = [figure.add_subplot(grid[row, column]) for row in range(3)]
        _draw_source(axes[0], dataset, frame, shown[frame])
        _draw_regions(axes[1], dataset, frame)
        _draw_matte(axes[2], dataset, frame)
        if column == 0:
            for axis, text in zip(axes, ("source", "regions", "matte and plate"), strict=True):
                axis.set_ylabel(text, fontsize=8)
    curves = [figure.add_subplot(grid[3 + row, :]) for row in range(_PLOTS)]
    _draw_curves(curves, dataset)
    _draw_text(figure.add_subplot(grid[-1, :]), notes)
    figure.savefig(dataset.folder / "overview.png")
    _write_page(dataset, notes)


def _title(dataset: Dataset) -> str:
    meta, source = dataset.meta, dataset.meta.source
    parts = ", ".join(f"{name} {len(span)}" for name, span in dataset.splits.items())
    return (
        f"{source['name']}: {meta.frames} frames at 25 a second ({parts}), crops {meta.size} x {meta.size}, "
        f"{meta.features.name}; face in {100 * dataset.valid.mean():.1f} %, "
        f"mesh fits to {meta.tracking['pose_error_pixels']:.1f} px"
    )


def _bare(axis: Axes, picture: NDArray[np.uint8], title: str = "") -> None:
    axis.imshow(picture, extent=(0, picture.shape[1], picture.shape[0], 0), interpolation="antialiased")
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=7, pad=2)


def _draw_source(axis: Axes, dataset: Dataset, frame: int, pixels: NDArray[np.uint8]) -> None:
    height, width = pixels.shape[:2]
    _bare(axis, pixels, f"{frame / dataset.fps:.2f} s" + ("" if dataset.valid[frame] else " (no face)"))
    size = dataset.size
    back = inverse(dataset.crops[frame])
    square = np.array([(0, 0), (size, 0), (size, size), (0, size), (0, 0)], float)
    axis.plot(*apply(back, square).T, color="#00e0ff", linewidth=1)
    points = apply(back, size * dataset.landmarks[frame].astype(float))
    for contour in (OVAL, LIPS, *EYES):
        closed = [*contour, contour[0]]
        axis.plot(*points[closed].T, color="#ffe600", linewidth=0.7)
    axis.scatter(points[:, 0], points[:, 1], s=0.15, color="white", linewidths=0)
    corner = (dataset.face_landmarks[frame] * width + (width, height)) / 2
    axis.scatter(corner[:, 0], corner[:, 1], s=9, facecolors="none", edgecolors="#ff2d95", linewidths=0.8)
    axis.set(xlim=(0, width), ylim=(height, 0))


def _draw_regions(axis: Axes, dataset: Dataset, frame: int) -> None:
    picture = dataset.picture(frame).astype(np.float64)
    _, regions = dataset.masks(frame)
    for name, region in zip(NAMES, regions, strict=True):
        picture[region] = 0.55 * picture[region] + 0.45 * 255 * np.array(_COLORS[name])
    pitch, yaw, roll = dataset.angles[frame]
    _bare(axis, picture.astype(np.uint8), f"yaw {yaw:.0f}°, pitch {pitch:.0f}°, roll {roll:.0f}°")


def _draw_matte(axis: Axes, dataset: Dataset, frame: int) -> None:
    """Draw the person over magenta in the left half, and the plate in the right."""
    size = dataset.size
    picture = dataset.picture(frame).astype(np.float64)
    matte, _ = dataset.masks(frame)
    behind = cut(dataset.plate, dataset.crops[frame], size).astype(np.float64)
    behind[:, : size // 2] = (255, 0, 200)
    alpha = matte[..., None] / 255.0
    picture[:, size // 2 :] = behind[:, size // 2 :]
    picture[:, : size // 2] = (alpha * picture + (1 - alpha) * behind)[:, : size // 2]
    _bare(axis, picture.astype(np.uint8))


def _draw_curves(axes: list[Axes], dataset: Dataset) -> None:
    seconds = np.arange(len(dataset)) / dataset.fps
    head, blink, crop, wave, mel = axes
    for k, name in enumerate(("pitch", "yaw", "roll")):
        head.plot(seconds, dataset.angles[:, k], linewidth=0.9, label=name)
    head.set_ylabel("head, degrees", fontsize=8)
    for k, name in enumerate(("left", "right")):
        blink.plot(seconds, dataset.blink[:, k], linewidth=0.9, label=name)
    blink.set_ylim(-0.05, 1.05)
    blink.set_ylabel("blink", fontsize=8)
    scale = np.linalg.norm(dataset.crops[:, :, 0], axis=1)
    center = apply(inverse(dataset.crops), np.full((1, 2), dataset.size / 2))[:, 0]
    for values, name in ((center[:, 0], "x"), (center[:, 1], "y")):
        crop.plot(seconds, values - np.median(values), linewidth=0.9, label=f"{name}, px")
    crop.plot(seconds, 100 * (scale / np.median(scale) - 1), linewidth=0.9, label="scale, %")
    crop.set_ylabel("crop moves", fontsize=8)
    low, high, rate = _envelope(dataset)
    wave.fill_between(np.arange(len(low)) / rate, low, high, linewidth=0, color="#555555")
    wave.set_ylabel("sound", fontsize=8)
    heard = np.asarray(dataset.features[:, 8])  # the step at the frame's own time
    mel.imshow(heard.T, origin="lower", aspect="auto", extent=(0, len(dataset) / dataset.fps, 0, heard.shape[1]))
    mel.set_ylabel(f"{dataset.features_info.name}", fontsize=8)
    mel.set_xlabel("seconds", fontsize=8)
    for axis in axes:
        axis.set_xlim(0, len(dataset) / dataset.fps)
        axis.tick_params(labelsize=7)
        if axis is mel:
            continue
        for name, span in dataset.splits.items():
            axis.axvspan(span.start / dataset.fps, span.stop / dataset.fps, color=_SPLITS[name], zorder=0)
        for frame in np.flatnonzero(~dataset.valid):
            axis.axvspan(frame / dataset.fps, (frame + 1) / dataset.fps, color="#ff8080", zorder=1)
        if axis is not wave:
            axis.legend(fontsize=7, loc="upper right", ncols=3)
    for name, span in dataset.splits.items():
        head.text(span.start / dataset.fps, 0.02, f" {name}", fontsize=7, transform=head.get_xaxis_transform())


def _envelope(dataset: Dataset) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Lowest and highest samples of 2000 stretches of the sound, and how many of them a second has."""
    with soundfile.SoundFile(dataset.speech) as wav:
        length = max(wav.frames // 2000, 1)
        ends = [(part.min(), part.max()) for part in wav.blocks(length, dtype="float32") if len(part)]
        low, high = np.array(ends, np.float32).T
        return low, high, wav.samplerate / length


def _draw_text(axis: Axes, notes: list[str]) -> None:
    axis.axis("off")
    axis.text(0, 1, "\n".join(notes), fontsize=9, va="top", ha="left", transform=axis.transAxes, parse_math=False)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ meta.source.name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1600px; margin: 2em auto; padding: 0 1em; color: #222 }
img { width: 100% } td, th { text-align: left; padding: 0 1.5em 0 0; vertical-align: top } th { font-weight: 600 }
</style>
<h1>{{ meta.source.name }}</h1>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
<img src="data:image/png;base64,{{ picture }}" alt="Frames, regions, mattes and curves">
<h2>Source</h2>
<table>{% for name, value in meta.source.items() %}<tr><th>{{ name }}<td>{{ value }}</tr>{% endfor %}</table>
<h2>Tracking</h2>
<table>{% for name, value in meta.tracking.items() %}<tr><th>{{ name }}<td>{{ value }}</tr>{% endfor %}</table>
</html>
"""


def _write_page(dataset: Dataset, notes: list[str]) -> None:
    import jinja2

    template = jinja2.Environment(autoescape=True).from_string(_PAGE)
    picture = base64.b64encode((dataset.folder / "overview.png").read_bytes()).decode()
    page = template.render(meta=dataset.meta, notes=notes, picture=picture)
    (dataset.folder / "overview.html").write_text(page, encoding="utf-8")
