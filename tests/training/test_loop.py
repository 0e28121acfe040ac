"""The loop: a run that stopped, in whatever way, ends as one that did not; what goes wrong is said by name."""

from __future__ import annotations

import errno
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from talk3d.training import checkpoint
from talk3d.training.config import RunConfig
from talk3d.training.loop import Interrupted, NotFinite, estimate, generator_of, train

RUN = RunConfig(save_every=3, log_every=2, device="cpu", keep=2)


class Line:
    """A stage that fits a line to noisy points, and can be made to fail."""

    name = "line"
    steps = 10

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.line = nn.Linear(2, 1)
        self.events: list[Any] = []
        self.hooks: dict[int, Any] = {}

    def begin(self) -> None:
        self.events.append("begin")

    def modules(self) -> dict[str, nn.Module]:
        return {"line": self.line}

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.line.parameters(), lr=0.1)

    def rate(self, step: int) -> float:
        return 1 / (1 + step)

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        points = torch.randn(8, 2, generator=generator)
        self.events.append(step)
        error = (self.line(points)[:, 0] - points @ torch.tensor([1.0, -2.0])).square().mean()
        terms = {"error": error, "size": 0.01 * self.line.weight.square().mean()}
        if hook := self.hooks.get(step):
            terms = hook(terms) or terms
        return terms

    def batch(self) -> str:
        return "frames 3, 4"

    def stepped(self, step: int) -> None:
        self.events.append(f"stepped {step}")

    def measure(self) -> dict[str, float]:
        return {"score": -(self.line.weight.detach() - torch.tensor([1.0, -2.0])).abs().sum().item()}

    def preview(self) -> dict[str, Tensor]:
        return {"line": torch.zeros(4, 4, 3, dtype=torch.uint8)}


class Notes:
    """A recorder that remembers."""

    def __init__(self) -> None:
        self.written: list[tuple[str, int, dict[str, float]]] = []
        self.drawn: list[int] = []

    def begin(self, stage: str, done: int, steps: int) -> None: ...

    def advance(self, done: int) -> None: ...

    def figures(self, stage: str, step: int, figures: Any) -> None:
        self.written.append((stage, step, dict(figures)))

    def pictures(self, stage: str, step: int, pictures: Any) -> None:
        self.drawn.append(step)


def run(folder: Path, stage: Line | None = None, config: RunConfig = RUN) -> Line:
    stage = stage or Line()
    train(stage, folder, config, Notes())
    return stage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights of a run that was not interrupted."""
    return run(tmp_path_factory.mktemp("whole")).line.state_dict()


def equal(stage: Line, whole: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, whole[name]) for name, tensor in stage.line.state_dict().items())


def test_two_runs_are_one(tmp_path, whole):
    assert equal(run(tmp_path), whole)


def test_random_numbers_depend_on_seed_stage_and_step_alone():
    def drawn(*key: Any) -> Tensor:
        return torch.rand(4, generator=generator_of(*key))

    torch.manual_seed(7)
    first = drawn(0, "driver", 3)
    torch.rand(5)
    assert torch.equal(drawn(0, "driver", 3), first)
    others = [drawn(1, "driver", 3), drawn(0, "identity", 3), drawn(0, "driver", 4)]
    assert not any(torch.equal(other, first) for other in others)


@pytest.mark.parametrize("stop", [0, 4, 8])
def test_ctrl_c_saves_and_the_run_goes_on_exactly(tmp_path, whole, stop):
    stage = Line()
    stage.hooks[stop] = lambda terms: signal.raise_signal(signal.SIGINT)
    with pytest.raises(Interrupted, match=f"stopped after step {stop + 1} of 10 of the stage 'line'"):
        run(tmp_path, stage)
    again = Line()
    again.line.weight.data.fill_(5)  # what a new process makes does not matter
    run(tmp_path, again)
    assert [event for event in again.events if isinstance(event, int)] == list(range(stop + 1, 10))
    assert equal(again, whole)


def test_ctrl_c_in_the_last_step_ends_the_stage(tmp_path, whole):
    stage = Line()
    stage.hooks[9] = lambda terms: signal.raise_signal(signal.SIGINT)
    assert equal(run(tmp_path, stage), whole)


def test_the_second_ctrl_c_is_not_waited_for(tmp_path):
    stage, before = Line(), signal.getsignal(signal.SIGINT)  # ignored in background jobs

    def twice(terms):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    stage.hooks[4] = twice
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(tmp_path, stage)
    assert not isinstance(stopped.value, Interrupted)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_that_dies_goes_on_from_its_last_checkpoint(tmp_path, whole):
    stage = Line()

    def die(terms):
        raise ZeroDivisionError

    stage.hooks[7] = die
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, stage)
    again = run(tmp_path)
    assert [event for event in again.events if isinstance(event, int)] == [6, 7, 8, 9]
    assert equal(again, whole)


def test_a_finished_stage_is_loaded_and_left_alone(tmp_path, whole):
    run(tmp_path)
    stage = Line()
    stage.line.weight.data.fill_(5)
    run(tmp_path, stage)
    assert stage.events == ["begin"]
    assert equal(stage, whole)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("error", r"the loss error of stage 'line' is not finite in step 7, which saw frames 3, 4"),
        ("size", r"the loss size of stage 'line' is not finite in step 7, which saw frames 3, 4"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, term, message):
    stage = Line()
    stage.hooks[7] = lambda terms: terms | {term: terms[term] * float("nan")}
    with pytest.raises(NotFinite, match=message):
        run(tmp_path, stage)
    stage = Line()
    assert checkpoint.Checkpoints(tmp_path / "checkpoints" / "line", 2).load(stage.modules()).step == 6
    assert stage.line.weight.isfinite().all()


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    stage = Line()
    # the root has no slope at 0: the loss is finite
    stage.hooks[2] = lambda terms: terms | {"root": (stage.line.weight * 0).sum().sqrt()}
    with pytest.raises(NotFinite, match="the gradient of stage 'line' is not finite in step 2"):
        run(tmp_path, stage)


def test_a_disk_that_fills_stops_the_run_with_the_last_checkpoint(tmp_path, monkeypatch):
    save, calls = checkpoint.save_file, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 2:  # two files a checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"the checkpoint of step 6 cannot be written .*No space left"):
        run(tmp_path)
    assert checkpoint.Checkpoints(tmp_path / "checkpoints" / "line", 2).load(Line().modules()).step == 3


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_that_does_not_suffice_is_said_with_the_step(tmp_path, error):
    stage = Line()

    def fail(terms):
        raise error

    stage.hooks[1] = fail
    with pytest.raises(MemoryError, match=r"memory does not suffice for step 1 of stage 'line'.*smaller batch"):
        run(tmp_path, stage)


def test_another_error_stays_what_it_is(tmp_path):
    stage = Line()

    def fail(terms):
        raise RuntimeError("shapes differ")

    stage.hooks[1] = fail
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(tmp_path, stage)


def test_what_is_logged_saved_and_drawn(tmp_path):
    notes = Notes()
    progress = train(Line(), tmp_path, RUN, notes)
    assert notes.drawn == [3, 6, 9, 10]
    held_out = {step: figures["held-out score"] for _, step, figures in notes.written if "held-out score" in figures}
    assert list(held_out) == notes.drawn
    assert progress.best == max(held_out.values())
    logged = [(step, figures) for _, step, figures in notes.written if "loss" in figures]
    assert [step for step, _ in logged] == [2, 3, 5, 6, 8, 9, 10]  # every second step, and before each checkpoint
    assert all(f["loss"] == pytest.approx(f["error"] + f["size"]) for _, f in logged)


def test_long_gradients_are_shortened(tmp_path):
    stage, config = Line(), RunConfig(save_every=3, clip=1e-3, device="cpu")
    stage.optimizer = lambda: torch.optim.SGD(stage.line.parameters(), lr=1.0)
    stage.rate, stage.steps = (lambda step: 1.0), 1
    before = [p.detach().clone() for p in stage.line.parameters()]
    run(tmp_path, stage, config)
    moved = torch.cat([(p - b).flatten() for p, b in zip(stage.line.parameters(), before, strict=True)]).norm()
    torch.testing.assert_close(moved, torch.tensor(1e-3), rtol=1e-3, atol=0)


def test_an_estimate_changes_nothing():
    stage = Line()
    before = {name: tensor.clone() for name, tensor in stage.line.state_dict().items()}
    assert 0 < estimate(stage, RUN) < 60
    assert equal(stage, before)
    assert all(p.grad is None for p in stage.line.parameters())
