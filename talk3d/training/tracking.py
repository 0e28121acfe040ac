"""Tracking: where the camera of each frame was, once it is known who is seen."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from talk3d import cameras as cams
from talk3d.models.scene import View
from talk3d.training import losses
from talk3d.training.cameras import CameraTrack
from talk3d.training.pictures import grid, pixels
from talk3d.training.prior import Prior
from talk3d.training.stage import StageContext
from talk3d.training.targets import EYES, FACE, MOUTH, Target, spread
from talk3d.training.transfer import moved

__all__ = ["TrackingStage", "align"]

_BATCH = 8  # frames that are rendered together
_INNER = 6  # Gauss-Newton steps for one render
_STEP = 1e-3  # radians and units of the world, of differences in place of derivatives
_OUTLIER = 0.1  # difference of colours, of 2, from which its weight falls
# standard deviations of the corrections: 2 degrees, and 0.02 units (7 mm); of colours, which noise and light change
_TURN, _SHIFT, _COLOR = 0.035, 0.02, 0.1
_MARGIN = 0.02  # of the picture's sides, within which a point is not looked up
_MEASURED, _SHOWN = 8, 3


def align(
    images: Float[Tensor, "frame 3 height width"],
    view: View,
    track: CameraTrack,
    index: Tensor,
    shown: Bool[Tensor, "frame 1 rows columns"],
) -> Float[Tensor, "frame 6"]:
    """Correct cameras until frames show what was rendered where its points are seen (direct alignment).

    No picture is rendered for it: the points of a view, by its depth, keep their colours, and Gauss-Newton moves the
    camera until the frame has these where they are seen. Differences of colours count less the larger they are.

    Args:
        images: Frames.
        view: Rendered from the cameras that the track has now.
        track: Cameras.
        index: Which frames ``[B]``.
        shown: Which pixels of the view are points.

    Returns:
        The frames' new corrections.
    """
    here = track.correction[index].detach().double()
    tracked = CameraTrack(track.tracked[index].double())
    rows = torch.arange(len(index), device=index.device)
    side = view.depth.shape[3]
    origins, directions = cams.rays(*cams.unpack(tracked.corrected(rows, here)), side)
    points = origins + view.depth.double().flatten(2).mT * directions
    colors = view.features[:, :3].double().flatten(2)
    usable = shown.flatten(1) & view.depth.flatten(1).isfinite()
    points = torch.where(usable[..., None], points, torch.zeros_like(points))
    pictures = images.double()
    halves = moved(torch.diag(0.5 / torch.tensor([*pictures.shape[:1:-1]], dtype=torch.float64)), index.device)
    spreads = moved(torch.tensor([_TURN] * 3 + [_SHIFT] * 3, dtype=torch.float64), index.device)
    found = here
    for _ in range(_INNER):
        where = losses.project(points, tracked.corrected(rows, found))
        slopes = []
        for k in range(6):
            ahead, back = found.clone(), found.clone()
            ahead[:, k] += _STEP
            back[:, k] -= _STEP
            apart = losses.project(points, tracked.corrected(rows, ahead)) - losses.project(
                points, tracked.corrected(rows, back)
            )
            slopes.append(apart / (2 * _STEP))
        across, down = (
            (_at(pictures, where + half) - _at(pictures, where - half)) / (2 * half.sum()) for half in halves
        )
        slope = torch.stack([across * s[:, None, :, 0] + down * s[:, None, :, 1] for s in slopes], -1)
        error = _at(pictures, where) - colors
        inside = usable & ((where - 0.5).abs() < 0.5 - _MARGIN).all(-1)
        weight = (inside[:, None] / (1 + (error / _OUTLIER).square())).expand_as(error)
        # the prior counts as one frame's points do
        normal = torch.einsum("bcpi,bcp,bcpj->bij", slope, weight, slope)
        down_hill = torch.einsum("bcpi,bcp,bcp->bi", slope, weight, error)
        held = weight.sum((1, 2))[:, None] * 1e-3 * _COLOR**2 / spreads.square()
        normal = normal + torch.diag_embed(held + 1e-9)
        down_hill = down_hill + held * (found - here)
        # without a look at whether it went well, for which a GPU would be waited for
        found = found - torch.linalg.solve_ex(normal, down_hill).result
    return found.to(track.correction.dtype)


def _at(pictures: Tensor, where: Tensor) -> Tensor:
    """Look up pictures ``[B, C, H, W]`` at places ``[B, P, 2]`` in units of their sides: ``[B, C, P]``."""
    return grid_sample(pictures, (2 * where - 1)[:, None], padding_mode="border", align_corners=False)[:, :, 0]


class TrackingStage:
    """Finds the cameras of all frames; see :class:`talk3d.training.stage.Stage`.

    Frames are rendered in batches, each frame once a round, and :func:`align` then moves its camera. What it finds is
    handed to the loop as a gradient, of which plain descent takes all: so it is saved and resumed as any training is.

    Args:
        context: What stages share.
        prior: The generator and the person; the identity is made of them when this stage begins.
    """

    name = "tracking"
    parted = False

    def __init__(self, context: StageContext, prior: Prior) -> None:
        self.context, self.prior = context, prior
        targets = context.targets
        frames = [i for split in targets.dataset.splits for i in targets.frames(split)]
        self._batches = [frames[k : k + _BATCH] for k in range(0, len(frames), _BATCH)]
        self.frames = len(frames)
        self.steps = context.config.prior.rounds * len(self._batches)
        self._held_out = targets.frames("val")
        self._seen, self._done = "", 0

    def begin(self) -> None:
        """Make the identity of the person's code, and freeze it."""
        self.prior.give(self.context.identity)
        self.context.identity.requires_grad_(False)
        self.context.cameras.requires_grad_(True)

    def modules(self) -> dict[str, nn.Module]:
        """The cameras."""
        return {"cameras": self.context.cameras}

    def optimizer(self) -> torch.optim.Optimizer:
        """Plain descent."""
        return torch.optim.SGD(self.context.cameras.parameters(), lr=1.0)

    def rate(self, step: int) -> float:
        """All of it."""
        return 1.0

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Render a batch and align it; the value is what the frames differ by before."""
        frames = self._batches[step % len(self._batches)]
        self._seen = f"frames {', '.join(map(str, frames))}"
        target, track = self.context.targets(frames), self.context.cameras
        with torch.no_grad():
            view = self._view(target)
            shown = self._shown(target, view)
            moved = align(target.view_image, view, track, target.index, shown) - track.correction[target.index]
            differ = losses.region_l1(view.features[:, :3], target.view_image, shown.float())
        toward = -(track.correction[target.index] * moved).sum()
        return {"color": differ + toward - toward.detach()}

    def batch(self) -> str:
        """The frames."""
        return self._seen

    def stepped(self, step: int) -> None:
        """Count."""
        self._done = step + 1

    @property
    def passes(self) -> float:
        """How often a frame of the clip was rendered so far, on average."""
        rendered = sum(len(self._batches[step % len(self._batches)]) for step in range(self._done))
        return rendered / self.frames

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """PSNR of held-out frames within what is compared, and renders of each frame so far."""
        found = []
        for index in spread(self._held_out, _MEASURED):
            target = self.context.targets([index])
            seen = self.context.identity.render(self.context.identity.planes, self.context.cameras(target.index))
            found.append(losses.psnr(seen.features[:, :3], target.view_image, self._shown(target, seen).float()))
        return {"PSNR": torch.stack(found).nanmean().item(), "passes per frame": self.passes}

    @torch.no_grad()
    def preview(self) -> dict[str, Tensor]:
        """Held-out frames, and renders from their cameras."""
        rows = []
        for index in spread(self._held_out, _SHOWN):
            target = self.context.targets([index])
            seen = self.context.identity.render(self.context.identity.planes, self.context.cameras(target.index))
            rows.append([pixels(target.view_image[0]), pixels(seen.features[0, :3])])
        return {"frames": grid(rows)}

    def _view(self, target: Target) -> View:
        identity = self.context.identity
        return identity.render(identity.planes, self.context.cameras(target.index))

    def _shown(self, target: Target, view: View) -> Tensor:
        """Pixels of the face that hold still, and have a depth."""
        regions = target.view_regions
        still = (regions[:, FACE : FACE + 1] > 0.5) & (regions[:, MOUTH : EYES + 1].amax(1, keepdim=True) < 0.5)
        return still & (view.weight > 0.5)
