"""What a run shows of itself: progress, TensorBoard, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from talk3d.beside import replacing

__all__ = ["Recorder", "Silent"]


class Recorder:
    """Writes ``tensorboard/`` and ``previews/`` into a run's folder, and shows a bar with the time that is left.

    Args:
        folder: Of the run.
        quiet: Show nothing on the terminal, as for machines that read standard output.
    """

    def __init__(self, folder: Path, *, quiet: bool = False) -> None:
        # tensorboard takes seconds to import
        from torch.utils.tensorboard import SummaryWriter

        self.previews = folder / "previews"
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._writer = SummaryWriter(folder / "tensorboard", flush_secs=10)
        self._progress = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=quiet,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Recorder:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._writer.close()

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

    def begin(self, stage: str, done: int, steps: int) -> None:
        """Open the bar of a stage."""
        self._task = self._progress.add_task(stage, total=steps, completed=done, note="")

    def advance(self, done: int) -> None:
        """Say how many steps were done."""
        if self._task is not None:
            self._progress.update(self._task, completed=done)

    def figures(self, stage: str, step: int, figures: Mapping[str, float], *, note: bool = True) -> None:
        """Write numbers; the first is shown beside the bar."""
        for name, value in figures.items():
            self._writer.add_scalar(f"{stage}/{name}", value, step)
        if note and figures and self._task is not None:
            name, value = next(iter(figures.items()))
            self._progress.update(self._task, note=f"{name} {value:.4g}")

    def pictures(self, stage: str, step: int, pictures: Mapping[str, Tensor]) -> None:
        """Write pictures, uint8 ``[H, W, 3]``: to TensorBoard and as ``previews/STAGE_STEP_NAME.png``."""
        self.previews.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            self._writer.add_image(f"{stage}/{name}", picture, step, dataformats="HWC")
            path = self.previews / f"{stage}_{step:06d}_{name}.png"
            with replacing(path) as unfinished:
                Image.fromarray(picture.numpy()).save(unfinished, "PNG")


class Silent(Recorder):
    """Says and writes nothing: of a process that does not lead."""

    def __init__(self, folder: Path) -> None:
        self.previews = folder / "previews"

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Nothing."""

    def begin(self, stage: str, done: int, steps: int) -> None:
        """Nothing."""

    def advance(self, done: int) -> None:
        """Nothing."""

    def figures(self, stage: str, step: int, figures: Mapping[str, float], *, note: bool = True) -> None:
        """Nothing."""

    def pictures(self, stage: str, step: int, pictures: Mapping[str, Tensor]) -> None:
        """Nothing."""
