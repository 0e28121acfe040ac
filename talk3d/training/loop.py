"""The loop: runs a stage from where it is to its end, and loses nothing on the way."""

from __future__ import annotations

import hashlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor

from talk3d.training.checkpoint import Checkpoints, Progress
from talk3d.training.config import RunConfig
from talk3d.training.record import Recorder
from talk3d.training.stage import Stage
from talk3d.training.team import SOLO, Parts, Team

__all__ = ["Interrupted", "NotFinite", "Parted", "estimate", "generator_of", "train"]


class NotFinite(RuntimeError):
    """A loss or a gradient is not finite; the message names stage, step, loss and batch."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and has saved where it is; the message says where that is."""


class Parted(NamedTuple):
    """How steps are shared out.

    Attributes:
        parts: Of a step; the stages know which is being computed.
        team: The processes.
    """

    parts: Parts
    team: Team = SOLO

    def of(self, stage: Stage) -> Parts:
        """The parts of a stage's steps."""
        return self.parts if getattr(stage, "parted", True) else Parts()


def generator_of(seed: int, stage: str, step: int) -> torch.Generator:
    """The random numbers of one step, whatever came before it."""
    digest = hashlib.sha256(f"{seed} {stage} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def train(
    stage: Stage, folder: Path, config: RunConfig, recorder: Recorder, *, seed: int = 0, parted: Parted | None = None
) -> Progress:
    """Run a stage to its end; from its last checkpoint, if there is one.

    Args:
        stage: What to train; its :meth:`Stage.begin` is called.
        folder: Of the run: checkpoints go to ``checkpoints/NAME``.
        config: How often to save, and so on.
        recorder: Where figures and pictures go.
        seed: Of all random numbers.
        parted: How steps are shared out among processes; by default there is one, and its steps have one part.

    Returns:
        Where the stage is, at its end.

    Raises:
        NotFinite: If a loss or the gradient is not finite. The last checkpoint is from before.
        Interrupted: On Ctrl-C, or where the system asks to stop, after a checkpoint was written.
        MemoryError: If memory does not suffice.
        OSError: If a checkpoint cannot be written.
        ValueError: If a checkpoint cannot be read.
        TeamBroken: If another process is gone.
    """
    parted = parted or Parted(Parts())
    parted.team.wait()  # until what the stage before wrote is there
    stage.begin()
    optimizer, modules = stage.optimizer(), stage.modules()
    rates = [group["lr"] for group in optimizer.param_groups]
    checkpoints = Checkpoints(folder / "checkpoints" / stage.name, config.keep)
    progress = checkpoints.load(modules, optimizer) or Progress(0)
    recorder.begin(stage.name, progress.step, stage.steps)
    losses = _Losses(stage.name, recorder, config.log_every)
    with _stop_signals() as stop:
        for step in range(progress.step, stage.steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * stage.rate(step)
            with _memory(stage.name, step):
                terms, asked = _step(stage, step, optimizer, (config, seed, parted, stop.is_set()))
                losses.add(step, terms, stage.batch())
            if asked:
                stop.set()
            recorder.advance(step + 1)
            is_last = step + 1 == stage.steps
            is_due = is_last or (step + 1) % config.save_every == 0
            halts = asked if parted.team.size > 1 else stop.is_set()
            if is_due or halts:
                losses.flush()
                keeper = checkpoints if parted.team.leads else None
                progress = _save(stage, step + 1, progress, keeper, optimizer, recorder, quick=not is_due)
                parted.team.wait()  # for who measures and writes: a step is not waited for that long
            if halts and not is_last:
                raise Interrupted(f"stopped after step {step + 1} of {stage.steps} of the stage {stage.name!r}")
    return progress


def estimate(stage: Stage, config: RunConfig, *, seed: int = 0) -> float:
    """Seconds that a stage will take from its first step: five trial steps, of which nothing stays."""
    stage.begin()
    parameters = [p for module in stage.modules().values() for p in module.parameters()]
    took = []
    middle = stage.steps // 2
    for step in (0, middle, middle + 1, middle, middle + 1):  # the first ones get their memory from the system
        start = time.perf_counter()
        with _memory(stage.name, step), _precision(parameters[0].device, config):
            total = torch.stack(list(stage.losses(step, generator_of(seed, stage.name, step)).values())).sum()
        total.backward()
        total.item()  # waits for a GPU
        took.append(time.perf_counter() - start)
        for parameter in parameters:
            parameter.grad = None
    return stage.steps * sum(took[-2:]) / 2


def _step(
    stage: Stage, step: int, optimizer: torch.optim.Optimizer, how: tuple[RunConfig, int, Parted, bool]
) -> tuple[dict[str, Tensor], bool]:
    """One step; returns the terms of the last part, the norm of the gradient, and whether anybody was asked to stop."""
    config, seed, parted, stop = how
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    parts, team = parted.of(stage), parted.team
    for part in team.mine(parts.count) if parts.count > 1 else range(1):
        parts.now = part
        with _precision(parameters[0].device, config):
            terms = stage.losses(step, generator_of(seed, stage.name, parts.turn(step)))
        torch.stack(list(terms.values())).sum().backward()
    if parts.count > 1:
        stop = team.gather(parameters, parts.count, stop=stop, step=step)
    elif team.size > 1:
        stop = team.gather(parameters, team.size, stop=stop, step=step)  # all computed the same
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip or math.inf)
    optimizer.step()
    stage.stepped(step)
    return {name: term.detach() for name, term in terms.items()} | {"gradient": norm}, stop


def _save(
    stage: Stage,
    done: int,
    before: Progress,
    checkpoints: Checkpoints | None,
    optimizer: torch.optim.Optimizer,
    recorder: Recorder,
    *,
    quick: bool,
) -> Progress:
    """Write a checkpoint; unless it shall be quick, also measure and draw. All processes measure, and one writes."""
    figures = {} if quick else stage.measure()
    recorder.figures(stage.name, done, {f"held-out {name}": value for name, value in figures.items()})
    score = next(iter(figures.values()), None)
    is_best = score is not None and (before.best is None or score > before.best)
    progress = Progress(done, score if is_best else before.best, figures or before.figures)
    if checkpoints is None:
        return progress
    checkpoints.save(progress, stage.modules(), optimizer, best=is_best)
    if not quick:
        recorder.pictures(stage.name, done, stage.preview())
    return progress


class _Losses:
    """Keeps the terms of recent steps where they are, so that a GPU is not waited for, and looks at them together."""

    def __init__(self, stage: str, recorder: Recorder, every: int) -> None:
        self.stage, self.recorder, self.every = stage, recorder, max(every, 1)
        self._recent: list[tuple[int, list[str], Tensor, str]] = []

    def add(self, step: int, terms: dict[str, Tensor], batch: str) -> None:
        values = torch.stack([term.float() for term in terms.values()])
        self._recent.append((step, list(terms), values, batch))
        # looking costs nothing on a CPU
        if values.device.type == "cpu":
            self._check(step, list(terms), values, batch)
        if len(self._recent) >= self.every:
            self.flush()

    def flush(self) -> None:
        """Raise if a recent step was not finite, then log the means.

        Raises:
            NotFinite: With stage, step, loss and batch.
        """
        sums: dict[str, list[float]] = {}
        for step, names, values, batch in self._recent:
            for name, value in zip(names, self._check(step, names, values, batch), strict=True):
                sums.setdefault(name, []).append(value)
        if self._recent:
            means = {name: sum(values) / len(values) for name, values in sums.items()}
            total = sum(value for name, value in means.items() if name != "gradient")
            self.recorder.figures(self.stage, self._recent[-1][0] + 1, {"loss": total} | means)
        self._recent.clear()

    def _check(self, step: int, names: list[str], values: Tensor, batch: str) -> list[float]:
        found: list[float] = values.tolist()
        bad = [name for name, value in zip(names, found, strict=True) if not math.isfinite(value)]
        if bad:
            what = "the gradient" if bad == ["gradient"] else f"the loss {', '.join(n for n in bad if n != 'gradient')}"
            raise NotFinite(f"{what} of stage {self.stage!r} is not finite in step {step}, which saw {batch}")
        return found


@contextmanager
def _precision(device: torch.device, config: RunConfig) -> Iterator[None]:
    low = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    with torch.autocast(device.type, torch.bfloat16, enabled=low):
        yield


@contextmanager
def _memory(stage: str, step: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        out_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not out_of_memory and "can't allocate memory" not in str(error):
            raise
        raise MemoryError(
            f"memory does not suffice for step {step} of stage {stage!r}: choose a smaller preset, or a smaller batch"
        ) from error


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn Ctrl-C and the system's wish into an event; the second one is not waited for."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def asked(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
