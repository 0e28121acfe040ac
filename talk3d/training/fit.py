"""``talk3d fit``: from a dataset to an avatar, stage after stage."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import talk3d
from talk3d.avatar import Avatar
from talk3d.beside import make_parent, replacing
from talk3d.data.dataset import Dataset
from talk3d.models.driver import Driver
from talk3d.models.generator import TriPlaneGenerator
from talk3d.models.identity import Identity
from talk3d.models.superresolution import VARIANTS
from talk3d.motion import Motion
from talk3d.training.cameras import CameraTrack
from talk3d.training.config import FitConfig
from talk3d.training.config_check import check
from talk3d.training.config_file import CONFIG, changes, read_config, run_folder, to_dict, write_config
from talk3d.training.driver import DriverStage
from talk3d.training.identity import IdentityStage
from talk3d.training.judges import Judges
from talk3d.training.loop import Interrupted, Parted, estimate, train
from talk3d.training.perceptual import Perceptual
from talk3d.training.prior import FilledTargets, Prior, read_generator
from talk3d.training.prior_stages import prior_stages
from talk3d.training.record import Recorder, Silent
from talk3d.training.stage import Stage, StageContext
from talk3d.training.superresolution import SuperResolutionStage
from talk3d.training.targets import Targets
from talk3d.training.team import join

__all__ = ["fit"]

_RUN = "run.json"

MakeStages = Callable[[StageContext], Sequence[Stage]]


def fit(
    data: Path,
    out: Path,
    config: FitConfig,
    *,
    resume: bool = False,
    quiet: bool = False,
    identity_stages: MakeStages | None = None,
) -> dict[str, Any]:
    """Make an avatar of a dataset.

    Args:
        data: What ``talk3d prepare`` made.
        out: The avatar, which must not exist; what is needed to go on lies in :func:`run_folder` beside it.
        config: Everything that can be set.
        resume: Go on where a run of the same configuration stopped.
        quiet: Show nothing on the terminal.
        identity_stages: Makes the stages before the driver; by default those that need the clip alone, or, with a
            generator, :func:`prior_stages`.

    Returns:
        Ready for JSON: ``avatar``, ``run``, ``device``, ``seconds``, and the held-out ``figures`` of each stage.

    Raises:
        ValueError: If the dataset is none or lacks a split, the avatar exists, or there is something else to resume.
        Interrupted: On Ctrl-C, with how to go on.
        NotFinite: If a loss is not finite.
        OSError: If something cannot be written.
    """
    start = time.monotonic()
    check(config)
    dataset = Dataset(data)
    device, folder = _device(config), run_folder(out)
    team = join(device)
    with _withdrawn_on_failure(folder, mine=team.leads and not folder.exists()):
        if team.leads:
            _require_place(out)
            generator = _generator(config, folder)  # before a run begins that could not go on
            _check_part(config, generator)
            _open(dataset, out, config, resume=resume)
        team.wait()
        if not team.leads:
            generator = _generator(config, folder)
        torch.manual_seed(config.seed)
        context = _context(dataset, config, device, generator)
        perceptual = Perceptual(config.run.lpips).to(device)
        judges = Judges(config.run, config.driver.losses, context.targets)
        driver = DriverStage(context, perceptual, judges)
        prior = None if generator is None else Prior(generator, context.targets, config.prior.frames)
        make = identity_stages or (_identity_stages if prior is None else partial(prior_stages, prior, perceptual))
        stages: list[Stage] = [*make(context), driver]
        if config.superresolution.steps:
            stages.append(SuperResolutionStage(context, driver.average, trained=prior is not None))
        recorder = Recorder(folder, quiet=quiet) if team.leads else Silent(folder)
        team.mine(config.parts)  # or a sentence
    recorder.say(f"{data}: {len(dataset)} frames; on {_name(device)}; pictures and checkpoints are in {folder}")
    for note in (perceptual.note, *judges.notes, *(prior.notes if prior else ())):
        recorder.say(note)
    figures: dict[str, Any] = {}
    context.parts.count = config.parts
    parted = Parted(context.parts, team)
    with recorder:
        _announce(stages, config, recorder)
        for stage in stages:
            try:
                progress = train(stage, folder, config.run, recorder, seed=config.seed, parted=parted)
            except Interrupted as stop:
                raise Interrupted(
                    f"{stop}; go on with: talk3d fit {_quoted(data)} --out {_quoted(out)} --resume"
                ) from None
            figures[stage.name] = progress.figures
            team.wait()
            for note in getattr(stage, "notes", ()):
                recorder.say(note)
            if stage is driver:
                driver.take_best(folder)
    summary = {"config": to_dict(config), "figures": figures, "seconds": round(time.monotonic() - start, 1)}
    team.wait()
    if team.leads:
        _save(context, driver.average, out, summary)
    team.leave()
    recorder.say(f"{out}: done")
    return {"avatar": str(out), "run": str(folder), "device": str(device), **summary}


@contextmanager
def _withdrawn_on_failure(folder: Path, *, mine: bool) -> Iterator[None]:
    """A run that could not begin leaves nothing that stands in the way of the next."""
    try:
        yield
    except BaseException:
        if mine:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _generator(config: FitConfig, folder: Path) -> TriPlaneGenerator | None:
    prior = config.prior
    return None if prior.generator is None else read_generator(prior.generator, folder, prior.axes)


def _check_part(config: FitConfig, generator: TriPlaneGenerator | None) -> None:
    """A part of a view is super-resolved as it is, which takes a view that is."""
    side, variant = config.model.view, config.model.superresolution
    if generator is not None:
        side, variant = generator.config.resolution, generator.config.superresolution
    shape = VARIANTS[variant]
    fits = side == shape.size or (shape.only_enlarge and side > shape.size)
    if config.driver.part < 1 and not fits:
        raise ValueError(
            f"driver.part must be 1 here, got {config.driver.part}: views have {side} pixels a side, and "
            f"super-resolution first makes {shape.size} of them, which it cannot do with a part"
        )


def _require_place(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already; name another, or remove it")
    if run_folder(out).exists() and not run_folder(out).is_dir():
        raise ValueError(f"{run_folder(out)} is a file, and should be the folder of the run; name another --out")
    make_parent(out)


def _open(dataset: Dataset, out: Path, config: FitConfig, *, resume: bool) -> Path:
    """Check that a run may begin or go on, and write down what it is."""
    folder = run_folder(out)
    about = {"talk3d": talk3d.__version__, "frames": len(dataset), "size": dataset.size, "source": dataset.meta.source}
    about = json.loads(json.dumps(about))
    try:
        before = json.loads((folder / _RUN).read_text())
    except FileNotFoundError:
        if resume:
            raise ValueError(f"there is nothing to resume: {folder} has no {_RUN}") from None
        folder.mkdir(parents=True, exist_ok=True)
        write_config(config, folder / CONFIG)
        with replacing(folder / _RUN) as unfinished:
            unfinished.write_text(json.dumps(about, indent=2) + "\n")
        return folder
    except (OSError, RecursionError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise ValueError(f"{folder / _RUN} is damaged: it does not describe a run")
    if not resume:
        raise ValueError(f"{folder} holds a run that is not finished: add --resume to go on with it, or remove it")
    if {**before, "talk3d": None} != {**about, "talk3d": None}:
        raise ValueError(f"{folder} is a run on another dataset than {dataset.folder}; name another --out")
    if changed := [name for name in changes(read_config(folder / CONFIG), config) if not name.startswith("run.")]:
        names = ", ".join(changed)
        raise ValueError(f"{folder} was begun with other settings: {names}; leave them out, or name another --out")
    return folder


def _context(
    dataset: Dataset, config: FitConfig, device: torch.device, generator: TriPlaneGenerator | None
) -> StageContext:
    camera = dataset.meta.camera
    aligned: dict[str, Any] = {"focal": camera.focal, "radius": camera.radius, "pivot": camera.pivot}
    scene = config.model.scene(**aligned) if generator is None else replace(generator.config.scene(), **aligned)
    sizes: dict[str, Any] = {"picture": VARIANTS[scene.superresolution].resolution, "view": scene.resolution}
    kind = Targets if generator is None else FilledTargets
    targets = kind(dataset, cache=config.run.cache, device=device, **sizes)
    cameras = CameraTrack(torch.from_numpy(dataset.cameras)).to(device)
    return StageContext(config, targets, Identity(scene).to(device), cameras)


def _identity_stages(context: StageContext) -> Sequence[Stage]:
    stages: list[Stage] = [IdentityStage(context)]
    if context.config.superresolution.before:
        stages.append(SuperResolutionStage(context))
    return stages


def _device(config: FitConfig) -> torch.device:
    wanted = config.run.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("run.device is cuda, and there is no GPU that torch can use")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # of torchrun
    return torch.device("cuda")


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"the CPU, {torch.get_num_threads()} threads"


def _announce(stages: Sequence[Stage], config: FitConfig, recorder: Recorder) -> None:
    """Say how long it will take, from trial steps."""
    seconds = {stage.name: estimate(stage, config.run, seed=config.seed) for stage in stages}
    parts = ", ".join(f"{name} {_duration(took)}" for name, took in seconds.items())
    recorder.say(f"About {_duration(sum(seconds.values()))} from the first step to the last: {parts}")


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 2 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _save(context: StageContext, driver: Driver, out: Path, summary: dict[str, Any]) -> None:
    dataset, config = context.targets.dataset, context.config
    camera, features = dataset.meta.camera, dataset.features_info
    facts = {
        "fps": dataset.fps,
        "features": vars(features),
        # a generator's volume holds its own
        **({} if config.prior.generator else {"background": "plate"}),
        "source": dataset.meta.source,
        "crop": {"focal": camera.focal, "pivot": list(camera.pivot), "radius": camera.radius, "size": dataset.size},
        "training": summary,
    }
    identity = context.identity.cpu().requires_grad_(False)
    motion = Motion(
        cameras=context.cameras(torch.arange(len(dataset), device=context.device)).detach().cpu(),
        angles=torch.from_numpy(dataset.angles),
        blink=torch.from_numpy(dataset.blink.mean(1)),
        landmarks=torch.from_numpy(dataset.face_landmarks),
        crops=torch.from_numpy(dataset.crops / dataset.size),
    )
    plate = None if config.prior.generator else torch.from_numpy(dataset.plate.copy())
    Avatar(identity, driver.cpu().eval().requires_grad_(False), facts, motion=motion, plate=plate).save(out)
