"""The report: numbers with all that they need to be read, as JSON and as one page."""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from talk3d.beside import beside, make_parent, replacing
from talk3d.evaluation.metrics import METRICS

__all__ = ["VERSION", "Measured", "Report", "ViewMeasured", "number", "table", "write_report"]

VERSION = 1
_FORMAT = "talk3d report"


@dataclass(frozen=True)
class Measured:
    """One number, or why there is none.

    Attributes:
        metric: A key of :data:`talk3d.evaluation.metrics.METRICS`, or the name of a published metric that is not there.
        value: Of the avatar; None where it is not measured.
        frames: Of how many frames.
        region: ``"whole"``, ``"face"``, ``"mouth"`` or ``"torso"``; empty where the metric has none.
        floor: Of the mean training frame, shown all the time; None where that means nothing.
        reason: Why it is not measured.
    """

    metric: str
    value: float | None
    frames: int
    region: str = ""
    floor: float | None = None
    reason: str | None = None

    @property
    def title(self) -> str:
        """As the report names it."""
        return METRICS[self.metric].title if self.metric in METRICS else self.metric

    def to_dict(self, split: str) -> dict[str, Any]:
        """Everything, ready for JSON."""
        known = METRICS.get(self.metric)
        about = {"unit": known.unit, "better": known.better} if known else {}
        return {"title": self.title} | asdict(self) | {"split": split} | about


@dataclass(frozen=True)
class ViewMeasured:
    """A camera that stands still, and what is seen from it.

    Attributes:
        title: As published: yaw and pitch.
        yaw: Direction from which the face is seen, degrees; see :mod:`talk3d.cameras`.
        pitch: The same, upwards.
        measured: What was.
    """

    title: str
    yaw: float
    pitch: float
    measured: list[Measured]


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        avatar: Folder of the avatar.
        data: Folder of the dataset.
        split: Which of its frames.
        frames: How many were compared.
        size: Side of the pictures that were compared.
        notes: Sentences on how.
        measured: Numbers against the true frames.
        views: Numbers of cameras that the clip does not have.
        curves: Numbers of each frame; ``"frame"`` is its index in the dataset.
    """

    avatar: str
    data: str
    split: str
    frames: int
    size: int
    notes: list[str]
    measured: list[Measured]
    views: list[ViewMeasured] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: what is not known is null, and infinite numbers are the strings inf and -inf."""
        parts = {name: getattr(self, name) for name in ("avatar", "data", "split", "frames", "size", "notes")}
        used = {found.metric for found in (*self.measured, *(m for view in self.views for m in view.measured))}
        about = {
            "format": _FORMAT,
            "version": VERSION,
            **parts,
            "measured": [found.to_dict(self.split) for found in self.measured],
            "views": [
                {"title": view.title, "yaw": view.yaw, "pitch": view.pitch}
                | {"measured": [found.to_dict(self.split) for found in view.measured]}
                for view in self.views
            ],
            "definitions": {name: metric.definition for name, metric in METRICS.items() if name in used},
            "curves": self.curves,
        }
        written: dict[str, Any] = _plain(about)
        return written


def write_report(report: Report, pictures: Mapping[str, bytes], out: Path) -> None:
    """Write ``report.json``, ``report.html`` and the pictures beside them, whole or not at all.

    Args:
        report: What was found.
        pictures: PNG files by name.
        out: The folder; one that is there is replaced.
    """
    out = out.absolute()
    make_parent(out)
    before = beside(out)
    with replacing(out) as unfinished:
        unfinished.mkdir()
        (unfinished / "report.json").write_text(json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n")
        for name, picture in pictures.items():
            (unfinished / f"{name}.png").write_bytes(picture)
        (unfinished / "report.html").write_text(_page(report, pictures), encoding="utf-8")
        if out.exists():
            os.replace(out, before)
    shutil.rmtree(before, ignore_errors=True)


def number(value: float | None) -> str:
    """Write a number as tables show it."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    text = str(value) if isinstance(value, int) else f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.4g}"
    return text.rstrip(".")


def table(report: Report) -> tuple[list[str], list[tuple[str, list[Measured | None]]]]:
    """Arrange what has regions: their names, and of each metric a row with a cell for each region."""
    rows: dict[str, dict[str, Measured]] = {}
    for found in report.measured:
        if found.region and found.reason is None:
            rows.setdefault(found.metric, {})[found.region] = found
    regions = list(dict.fromkeys(region for row in rows.values() for region in row))
    return regions, [(metric, [row.get(region) for region in regions]) for metric, row in rows.items()]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        # six digits are more than any of these numbers is good for
        return float(f"{value:.6g}") if math.isfinite(value) else None if math.isnan(value) else str(value)
    return value


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ report.avatar }} on {{ report.data }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222 }
img { max-width: 100% } table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .25em .9em .25em 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } td.n small { color: #888 } th { font-weight: 600 }
h2 { margin-top: 2em } dt { font-weight: 600; margin-top: .6em } dd { margin: 0 } .unit { color: #888 }
</style>
<h1>{{ report.avatar }}</h1>
<p>Compared with {{ report.frames }} frames of <b>{{ report.split }}</b> of {{ report.data }}, {{ report.size }} x
{{ report.size }} pixels. In grey, what the mean training frame scores that is shown all the time: the floor.</p>
<ul>{% for note in report.notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% macro unit(metric) %}{% if metrics[metric].unit %} <span class="unit">{{ metrics[metric].unit }}</span>{% endif %}
{{ {"higher": "↑", "lower": "↓", "zero": "→ 0"}[metrics[metric].better] }}{% endmacro %}
{% macro cell(found) %}<td class="n">{{ number(found.value) }}
{%- if found.floor is not none %} <small>{{ number(found.floor) }}</small>{% endif %}{% endmacro %}
<h2>Pictures</h2>
<table><tr><th>{% for region in regions %}<th class="n">{{ region }}{% endfor %}</tr>
{% for metric, cells in rows %}<tr><td>{{ metrics[metric].title }}{{ unit(metric) }}
{%- for found in cells %}{% if found %}{{ cell(found) }}{% else %}<td class="n">-{% endif %}{% endfor %}</tr>
{% endfor %}</table>
<img src="{{ picture('strip') }}" alt="Frames: true, ours, their difference, depth, and other views">
{% if whole %}<h2>Mouth, eyes, and the whole</h2>
<table>{% for found in whole %}<tr><td>{{ found.title }}{{ unit(found.metric) }}{{ cell(found) }}
<td class="n">{{ found.frames }} frames</tr>{% endfor %}</table>{% endif %}
<h2>Frame by frame</h2>
<img src="{{ picture('curves') }}" alt="Curves of PSNR, mouth opening and eye opening">
{% if report.views %}<h2>Novel views</h2>
<p>Cameras that stand still; of these there are no true frames. Named as published; where they really are is below.</p>
<table><tr><th>{% for view in report.views %}<th class="n">{{ view.title }}{% endfor %}</tr>
<tr><td>yaw, pitch{% for view in report.views %}<td class="n">{{ "%.1f°, %.1f°"|format(view.yaw, view.pitch) }}
{%- endfor %}</tr>
{% for row in view_rows %}<tr><td>{{ row[0].title }}{{ unit(row[0].metric) }}
{%- for found in row %}<td class="n">{{ number(found.value) }}{% endfor %}</tr>
{% endfor %}</table>{% endif %}
{% if "attention" in pictures %}<h2>Attention</h2>
<p>Where on the planes each token is looked at, in the middle frame above.</p>
<img src="{{ picture('attention') }}" alt="Attention maps">{% endif %}
<h2>Not measured</h2>
<table>{% for title, reason in missing %}<tr><td>{{ title }}<td>{{ reason }}</tr>{% endfor %}</table>
<h2>Definitions</h2>
<dl>{% for metric in used %}<dt>{{ metrics[metric].title }}<dd>{{ metrics[metric].definition }}{% endfor %}</dl>
</html>
"""


def _page(report: Report, pictures: Mapping[str, bytes]) -> str:
    import jinja2

    regions, rows = table(report)
    everything = [*report.measured, *(found for view in report.views for found in view.measured)]
    measured = [found for found in everything if found.reason is None]
    view_metrics = [found.metric for found in (report.views[0].measured if report.views else []) if not found.region]
    view_rows = [
        [next(found for found in view.measured if found.metric == metric) for view in report.views]
        for metric in view_metrics
    ]
    missing = {(found.title, found.reason): None for found in everything if found.reason is not None}
    return (
        jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        .from_string(_PAGE)
        .render(
            report=report,
            metrics=METRICS,
            number=number,
            regions=regions,
            rows=rows,
            whole=[found for found in report.measured if not found.region and found.reason is None],
            view_rows=[row for row in view_rows if row[0].metric in METRICS and any(f.reason is None for f in row)],
            missing=list(missing),
            used=list(dict.fromkeys(found.metric for found in measured)),
            pictures=pictures,
            picture=lambda name: f"data:image/png;base64,{base64.b64encode(pictures[name]).decode()}",
        )
    )
