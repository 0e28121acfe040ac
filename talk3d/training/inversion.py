"""Inversion: a few frames, together, say which code of a generator the person is, and where their cameras were."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from talk3d.models.scene import View
from talk3d.training import losses
from talk3d.training.config_prior import PriorConfig
from talk3d.training.face import FaceMesh, depth_error
from talk3d.training.perceptual import Perceptual
from talk3d.training.pictures import grid, pixels, shape_pictures
from talk3d.training.prior import Prior, correction
from talk3d.training.stage import StageContext
from talk3d.training.targets import FACE, Target
from talk3d.training.transfer import moved

__all__ = ["InversionStage"]

_SHARED = 0.4  # share of the steps in which all frames have one code, and renders alone are compared
# shares of the steps after which frames look around for a better pose, and how far, degrees
_SEARCHES = ((0.15, 6.0), (0.3, 3.0), (0.38, 2.0), (0.6, 2.0))
_FREE = 0.6  # share of the steps in which cameras only turn up and down, and to the sides
_STARTS = 5  # codes to start from, between two means
_PLACES = 5  # along yaw, and along pitch
_BETTER = 0.97  # a place that is less better than this is none
_RISE, _FALL = 0.05, 0.4  # shares of the steps in which learning rates grow, and fall
_OFFSET_RATE, _SHIFT_RATE = 0.2, 0.3  # of the code's, and of the turns'
_WORSE, _PATIENCE = 3.0, 20  # a loss that is so many times the best one for so many steps has diverged
_FACE_POINTS = 1024
_SIDES = (-30.0, 0.0, 30.0)  # of the preview, degrees of yaw: no frame shows them
_LOOK = 10  # steps after which it is seen that an inversion was stopped


class InversionStage:
    """Finds code, offsets and cameras; see :class:`talk3d.training.stage.Stage`.

    At first all frames have one code, so that the planes are made once; at times each frame looks around for a
    better pose, since a gradient does not lead out of a wrong one. Then each frame has its offset, and super-resolved
    pictures are compared, too. All frames take part in each step, without random samples.

    An inversion that diverges is stopped: what was best stays.

    Args:
        context: What stages share; its cameras are those to start from.
        prior: The generator, and the person.
        perceptual: The perceptual loss.

    Attributes:
        notes: What happened, in sentences.
    """

    name = "inversion"
    parted = False

    def __init__(self, context: StageContext, prior: Prior, perceptual: Perceptual) -> None:
        self.context, self.prior, self.perceptual = context, prior, perceptual
        self.config: PriorConfig = context.config.prior
        self.steps = self.config.inversion
        self.state = _State(prior)
        self.notes: list[str] = []
        self._free = True
        self.target: Target = context.targets(prior.frames)
        mesh = torch.from_numpy(context.targets.dataset.mesh).float()
        self._face = FaceMesh(mesh).to(context.device) if self.config.losses.depth else None
        self._start = context.cameras.correction.detach()[prior.index].clone()
        self._pivot = moved(context.identity.config.pivot, context.device)
        self._holds: list[RemovableHandle] = []

    def begin(self) -> None:
        """Freeze everything but the person."""
        self.prior.generator.requires_grad_(False)
        self.context.identity.requires_grad_(False)
        self.context.cameras.requires_grad_(False)
        self.prior.person.requires_grad_(True)
        for handle in self._holds:
            handle.remove()
        # once it was stopped nothing moves, whatever the gradient is
        self._holds = [p.register_hook(self._held) for p in self.prior.person.parameters()]
        self.state.reset()  # trial steps are none
        self.notes.clear()
        self._begin_at_a_mean()

    def modules(self) -> dict[str, nn.Module]:
        """The person, what was best, and the cameras."""
        return {"person": self.prior.person, "state": self.state, "cameras": self.context.cameras}

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam, along the axes of codes."""
        person, rate = self.prior.person, self.config.code_rate
        groups = [
            {"params": [person.at], "lr": rate},
            {"params": [person.offsets_at], "lr": _OFFSET_RATE * rate},
            {"params": [person.turn], "lr": self.config.pose_rate},
            {"params": [person.shift], "lr": _SHIFT_RATE * self.config.pose_rate},
        ]
        return torch.optim.Adam(groups, betas=(0.9, 0.99))

    def rate(self, step: int) -> float:
        """Warm-up, and a cosine to nothing in the end."""
        share = step / max(self.steps, 1)
        falling = min(1.0, (1 - share) / _FALL)
        return min(1.0, (step + 1) / (_RISE * self.steps + 1)) * (1 - math.cos(math.pi * falling)) / 2

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Render all frames, and compare."""
        if self.notes:  # it was stopped
            return {"stopped": 0 * self.prior.person.at.sum()}
        late, self._free = step >= _SHARED * self.steps, step >= _FREE * self.steps
        for share, reach in _SEARCHES:
            if step == round(share * self.steps):
                self._search(math.radians(reach), shared=not late)
        terms = self.compare(*self.render(shared=not late), generator, large=late)
        person, weights = self.prior.person, self.config.losses
        if late and weights.offsets:
            terms["offsets"] = weights.offsets * person.offsets_at.square().mean()
        if weights.poses:
            turn, shift = torch.rad2deg(person.turn).square().mean(), (100 * person.shift).square().mean()
            terms["poses"] = weights.poses * 0.1 * (turn + shift)
        self.state.judge(self.prior, torch.stack([term.detach() for term in terms.values()]).sum(), step)
        if self._looks(step) and self._was_stopped():
            return {"stopped": 0 * person.at.sum()}
        return {name: torch.where(self.state.stopped, 0, term) for name, term in terms.items()}

    def batch(self) -> str:
        """The frames."""
        return f"frames {', '.join(map(str, self.prior.frames))}"

    def stepped(self, step: int) -> None:
        """Keep what was best where it diverged, and write the cameras down."""
        self.state.restore(self.prior)
        self.prior.place(self.context.cameras, self._pivot, self._start)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """PSNR of the frames' pictures and renders, in decibels."""
        self._was_stopped()
        codes, cameras, view = self.render(shared=False)
        found = {"PSNR": (self.prior.enlarge(view, codes), self.target.image)}
        found["render PSNR"] = (view.features[:, :3], self.target.view_image)
        return {
            name: losses.psnr(image, wanted, torch.ones_like(image[:, :1])).item()
            for name, (image, wanted) in found.items()
        }

    @torch.no_grad()
    def preview(self) -> dict[str, Tensor]:
        """Frames, what the generator makes of their codes, and what differs; and the person's code from the sides."""
        codes, _, view = self.render(shared=False)
        image, wanted = self.prior.enlarge(view, codes).clamp(-1, 1), self.target.image
        rows = (wanted, image, (image - wanted).abs() - 1)
        planes, scene = self.prior.planes(self.prior.person.w[None]), self.context.identity.config
        looks = [scene.camera(yaw).to(self.context.device)[None] for yaw in _SIDES]
        seen = [self.prior.generator.render(planes, camera) for camera in looks]
        self.prior.count(self.name, len(looks))
        columns = [
            [pixels(view.features[0, :3]), *shape_pictures(view, camera)]
            for view, camera in zip(seen, looks, strict=True)
        ]
        return {
            "frames": grid([[pixels(one) for one in row] for row in rows]),
            "turned": grid(list(zip(*columns, strict=True))),
        }

    def compare(
        self, codes: Tensor, cameras: Tensor, view: View, generator: torch.Generator, *, large: bool
    ) -> dict[str, Tensor]:
        """Weighted differences of rendered frames; with ``large`` also of their super-resolved pictures."""
        target, weights = self.target, self.config.losses
        raw, wanted = view.features[:, :3], target.view_image
        terms = {"color": weights.color * losses.l1(raw, wanted)}
        if weights.edges:
            terms["edges"] = weights.edges * losses.edges(raw, wanted)
        if weights.perceptual:
            terms["perceptual"] = weights.perceptual * self.perceptual(raw, wanted)
        if weights.face:
            terms["face"] = weights.face * losses.region_l1(raw, wanted, target.view_regions[:, FACE : FACE + 1])
        if weights.picture and large:
            image = self.prior.enlarge(view, codes)
            terms["picture"] = weights.picture * losses.l1(_shown(image), _shown(target.image))
        if weights.matte:
            terms["matte"] = weights.matte * ((1 - view.weight) * target.view_matte).mean()
        if self._face is not None and weights.depth:
            points = self._face.sample(generator, _FACE_POINTS)
            parts = [
                depth_error(View(*(p[k : k + 1] for p in view)), cameras[k : k + 1], points)
                for k in range(len(cameras))
            ]
            terms["depth"] = weights.depth * torch.stack(parts).mean()
        return terms

    def render(self, *, shared: bool) -> tuple[Tensor, Tensor, View]:
        """Codes, cameras and views of all frames."""
        person, prior = self.prior.person, self.prior
        codes = person.w.expand(len(prior.frames), -1) if shared else person.codes()
        planes = prior.planes(person.w[None]) if shared else prior.planes(codes)
        cameras = self._cameras(person.turn)
        prior.count(self.name, len(cameras))
        return codes, cameras, prior.generator.render(planes, cameras)

    def _cameras(self, turn: Tensor) -> Tensor:
        shift: Tensor = self.prior.person.shift
        if not self._free:  # they are 0 then, and stay
            turn, shift = torch.cat((turn[:, :2], 0 * turn[:, 2:]), 1), 0 * shift
        change = correction(turn, shift, self._pivot)
        return self.context.cameras.corrected(self.target.index, self._start + change)

    @torch.no_grad()
    def _begin_at_a_mean(self) -> None:
        """Start from what the frames are most like: codes' mean, the mean that they are truncated to, or between."""
        prior, average = self.prior, self.prior.original.mapping.w_avg
        if average is None:
            prior.person.start(prior.mean)
            return
        self._free = False
        cameras, errors = self._cameras(prior.person.turn), []
        starts = [torch.lerp(average, prior.mean, share) for share in torch.linspace(0, 1, _STARTS).tolist()]
        for code in starts:
            seen = prior.generator.render(prior.planes(code[None]), cameras).features[:, :3]
            errors.append(losses.l1(seen, self.target.view_image).item())
            prior.count(self.name, len(cameras))
        prior.person.start(starts[errors.index(min(errors))])

    @torch.no_grad()
    def _search(self, reach: float, *, shared: bool) -> None:
        """Let each frame try poses up to so many radians from its own."""
        person, prior = self.prior.person, self.prior
        planes, here = prior.planes(person.w[None] if shared else person.codes()), person.turn.detach().clone()
        steps = torch.linspace(-reach, reach, _PLACES).tolist()

        def error(turn: Tensor) -> Tensor:
            prior.count(self.name, len(turn))
            seen = prior.generator.render(planes, self._cameras(turn)).features[:, :3]
            return (seen - self.target.view_image).abs().mean((1, 2, 3))

        best: Tensor = here
        least = error(here) * _BETTER
        for pitch in steps:
            for yaw in steps:
                turn = here + moved([pitch, yaw, 0.0], here.device)
                found = error(turn)
                best = torch.where((found < least)[:, None], turn, best)
                least = torch.minimum(found, least)
        person.turn.copy_(best)

    def _held(self, gradient: Tensor) -> Tensor:
        return gradient.masked_fill(self.state.stopped, 0)

    def _looks(self, step: int) -> bool:
        """Whether the host looks at whether it was stopped."""
        # a GPU would have to be waited for; on a CPU it costs nothing
        return step % _LOOK == 0 or self.context.device.type == "cpu"

    def _was_stopped(self) -> bool:
        """Whether it was stopped; says so once."""
        state = self.state
        if not state.stopped:
            return False
        if not self.notes:
            self.notes.append(
                f"The inversion of {self.batch()} diverged: in step {int(state.last)} its loss is "
                f"{float(state.total):.3g}, and was {float(state.least):.3g} in step {int(state.step)}. It is stopped, "
                "and the best one is kept."
            )
        return True


class _State(nn.Module):
    """What was best, and whether the inversion was stopped; a part of checkpoints."""

    least: Tensor
    total: Tensor
    step: Tensor
    last: Tensor
    bad: Tensor
    stopped: Tensor

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        device = prior.person.w.device
        for name, parameter in prior.person.named_parameters():
            self.register_buffer(name, parameter.detach().clone())
        for name in ("least", "total"):
            self.register_buffer(name, torch.tensor(math.inf, device=device))
        for name in ("step", "last", "bad"):
            self.register_buffer(name, torch.tensor(0, device=device))
        self.register_buffer("stopped", torch.tensor(False, device=device))

    @torch.no_grad()
    def reset(self) -> None:
        for loss in (self.least, self.total):
            loss.fill_(math.inf)
        for count in (self.step, self.last, self.bad, self.stopped):
            count.zero_()

    @torch.no_grad()
    def judge(self, prior: Prior, total: Tensor, step: int) -> None:
        """Keep what is best; stop if the loss has been far above that for long, or is no number.

        All this is computed where the loss is, which nobody waits for.
        """
        finite, runs = total.isfinite(), ~self.stopped
        better = runs & finite & (total < self.least)
        for name, parameter in prior.person.named_parameters():
            self._take(self.get_buffer(name), parameter, better)
        self._take(self.least, total, better)
        self._take(self.step, torch.full_like(self.step, step), better)
        worse = ~finite | ((total > _WORSE * self.least) & (step > _PATIENCE))
        self.bad.copy_((self.bad + 1) * worse)
        self._take(self.total, total, runs)
        self._take(self.last, torch.full_like(self.last, step), runs)
        self.stopped.logical_or_(~finite | (self.bad >= _PATIENCE))

    @torch.no_grad()
    def restore(self, prior: Prior) -> None:
        """Go back to what is best, if it was stopped."""
        for name, parameter in prior.person.named_parameters():
            self._take(parameter, self.get_buffer(name), self.stopped)

    @staticmethod
    def _take(kept: Tensor, found: Tensor, when: Tensor) -> None:
        kept.copy_(torch.where(when, found, kept))


def _shown(image: Tensor) -> Tensor:
    """What of a picture is seen: beyond black and white differences hardly count, but lead back."""
    return image.clamp(-1, 1) + 0.05 * (image - image.clamp(-1, 1))
