"""The stages that find a person in a trained generator."""

from __future__ import annotations

from collections.abc import Sequence

from talk3d.training.inversion import InversionStage
from talk3d.training.perceptual import Perceptual
from talk3d.training.prior import Prior
from talk3d.training.stage import Stage, StageContext
from talk3d.training.superresolution import SuperResolutionStage
from talk3d.training.tracking import TrackingStage
from talk3d.training.tuning import TuningStage

__all__ = ["prior_stages"]


def prior_stages(prior: Prior, perceptual: Perceptual, context: StageContext) -> Sequence[Stage]:
    """Inversion, tuning and tracking, and super-resolution of the person at rest."""
    inversion = InversionStage(context, prior, perceptual)
    stages: list[Stage] = [inversion]
    if context.config.prior.tuning:
        stages.append(TuningStage(inversion))
    stages.append(TrackingStage(context, prior))
    if context.config.superresolution.before:
        stages.append(SuperResolutionStage(context, trained=True))
    return stages
