"""The driver stage: delta U-Net and token encoders learn what moves a person who is known at rest."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from talk3d import cameras as cams
from talk3d.models.compositing import composite
from talk3d.models.delta import DeltaUNet
from talk3d.models.driver import Driver
from talk3d.models.encoders import ConditionEncoder, Conditions
from talk3d.models.scene import View
from talk3d.models.superresolution import FoldedSuperResolution
from talk3d.ops import render_rays
from talk3d.training import losses
from talk3d.training.adversary import make_adversary
from talk3d.training.articulation import Articulation
from talk3d.training.checkpoint import Checkpoints
from talk3d.training.judges import Judges
from talk3d.training.pairs import Pair
from talk3d.training.perceptual import Perceptual
from talk3d.training.pictures import grid, pixels
from talk3d.training.stage import StageContext, uniform
from talk3d.training.targets import EYES, FACE, MOUTH, Target, Targets, in_turn, over_color, spread

__all__ = ["DriverStage", "Pair"]

_RAYS = 512  # of an exchanged frame: its mouth or its eyes, several times over
_RIM = 3  # pixels of a view within which a super-resolution sees the edge of what it is given
_FINAL_RATE = 0.1
_CLOSED = 0.4  # blink, from 0 to 1
_MEASURED, _SHOWN = 12, 4  # held-out frames
# what is exchanged, and the region that it does not drive
_EXCHANGES = (("blink", MOUTH), ("speech", EYES), ("pose", FACE))


class DriverStage:
    """Trains a driver; see :class:`talk3d.training.stage.Stage`.

    The identity is rendered with the delta planes of each frame, over the plate or, in half of the steps, over a
    colour, and compared with what was filmed; also after super-resolution, where that was trained before.

    Speech, blink and pose go together by chance in a short clip, so that a network may learn to read one from the
    other. Hence each step has one frame more, with another blink, or the speech or the pose of another frame: of it,
    only what that does not drive is compared.

    Args:
        context: What stages share.
        perceptual: The perceptual loss.
        judges: Networks that make losses, if there are any.

    Attributes:
        driver: What is trained.
        average: The moving average of its weights: the result.
    """

    name = "driver"

    def __init__(self, context: StageContext, perceptual: Perceptual, judges: Judges | None = None) -> None:
        self.context, self.config, self.judges = context, context.config.driver, judges
        self.steps = self.config.steps
        model, scene = context.config.model, context.identity.config
        unet = DeltaUNet(
            axes=scene.rendering.axes,
            channels=scene.plane_channels,
            resolution=scene.plane_resolution,
            condition=model.token,
            width=model.unet_width,
        ).recompute(self.config.recompute)
        encoder = ConditionEncoder(context.targets.dataset.features_info.width, width=model.token)
        self.driver = Driver(unet, encoder).to(context.device)
        self.average = copy.deepcopy(self.driver).requires_grad_(False) if self.config.ema else self.driver
        self.perceptual = perceptual
        self.articulation = Articulation(context.targets, model.token, context.config.seed).to(context.device)
        self._frames = _with_blinks(context.targets)
        self._windows = context.targets.windows("train", self.config.window) if self.config.window > 1 else []
        self._held_out = context.targets.frames("val")
        self._mesh = torch.as_tensor(context.targets.dataset.mesh, device=context.device)[None]
        self._enlarge: FoldedSuperResolution | None = None
        shape, part = context.targets, self.config.part
        size = shape.picture if context.config.superresolution.before else shape.view
        self.adversary = make_adversary(context.config, size if part == 1 else round(part * size))
        if self.adversary is not None:
            self.adversary.to(context.device)
        self._seen = ""

    def begin(self) -> None:
        """Freeze the identity, and fold its super-resolution if there is one yet."""
        identity = self.context.identity.eval().requires_grad_(False)
        identity.planes.requires_grad_(self.config.identity_rate > 0)
        self.context.cameras.requires_grad_(self.config.camera_rate > 0)
        if self.context.config.superresolution.before:
            self._enlarge = identity.superresolution.fold(identity.w)

    def modules(self) -> dict[str, nn.Module]:
        """The driver, its average, and what else is trained."""
        found: dict[str, nn.Module] = {"driver": self.driver, "articulation": self.articulation}
        if self.average is not self.driver:
            found["average"] = self.average
        if self.config.identity_rate:
            found["identity"] = self.context.identity
        if self.config.camera_rate:
            found["cameras"] = self.context.cameras
        if self.adversary is not None:
            found["adversary"] = self.adversary
        return found

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam; what many texels share learns slowly, what is one texel's learns fast."""
        unet = dict(self.driver.unet.named_parameters())
        maps, shared = [unet.pop("head.maps")], list(unet.values())
        encoders = [*self.driver.conditions.parameters(), *self.articulation.parameters()]
        groups = [
            {"params": encoders, "lr": self.config.rate},
            {"params": shared, "lr": self.config.unet_rate},
            {"params": maps, "lr": self.config.map_rate},
        ]
        if self.config.identity_rate:
            groups.append({"params": [self.context.identity.planes], "lr": self.config.identity_rate})
        if self.config.camera_rate:
            groups.append({"params": list(self.context.cameras.parameters()), "lr": self.config.camera_rate})
        if self.adversary is not None:
            groups.append(self.adversary.group())
        return torch.optim.Adam(groups, betas=(0.9, 0.99))

    def rate(self, step: int) -> float:
        """Warm-up, then a cosine to a tenth."""
        rising = min(1.0, (step + 1) / (self.config.warmup + 1))
        cosine = (1 + math.cos(math.pi * step / max(self.steps, 1))) / 2
        return rising * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Render a batch, and compare."""
        context, config = self.context, self.config
        window = config.window if step % 2 else 1
        indices = self._draw(step, window)
        self._seen = f"frames {', '.join(map(str, indices))}"
        whole = plain = context.targets(indices)
        if torch.rand((), generator=generator) < 0.5:
            whole = over_color(whole, uniform(generator, context.device, 3) * 2 - 1)
        weights = {name: term.at(step, self.steps) for name, term in vars(config.losses).items()}

        tokens = self.driver.conditions(whole.features, whole.conditions)
        exchanged = None
        if weights["exchange"]:
            exchanged, extra = self._exchange(whole, generator)
            tokens = torch.cat((tokens, extra))
        identity = context.identity.planes
        delta = self.driver.unet(tokens, identity)
        planes = identity + delta
        batch = len(indices)
        cameras = context.cameras(whole.index)
        place = self._place(generator)
        target = whole.part(*place)
        view, rays = self._render(planes[:batch], cameras, place, generator)
        pairs = self._pairs(view, target, place)
        largest = pairs[-1]

        terms: dict[str, Callable[[], Tensor]] = {
            "l1": lambda: torch.stack([pair.l1() for pair in pairs]).sum(),
            "perceptual": lambda: self.perceptual(largest.found, largest.target),
            "mouth": lambda: torch.stack([pair.within(MOUTH) for pair in pairs]).sum(),
            "eyes": lambda: torch.stack([pair.within(EYES) for pair in pairs]).sum(),
            "matte": lambda: losses.matte(view.weight, target.view_matte),
            "delta": lambda: losses.delta_size(delta, identity),
            "articulation": lambda: self.articulation(self.driver.conditions.audio, context.parts.turn(step)),
        }
        if config.camera_rate:
            terms["landmarks"] = lambda: losses.landmarks(self._mesh, cameras, target.tracked)
        if self.judges is not None:
            terms |= self.judges.terms(view, pairs, (whole, plain), window)
        if window > 1:
            cut = (-1, window)
            terms["temporal"] = lambda: (
                losses.temporal(largest.found.unflatten(0, cut), largest.target.unflatten(0, cut))
                + losses.temporal(delta[:batch].unflatten(0, cut)) / identity.detach().std().clamp(min=1e-4)
            )
            terms["photometric"] = lambda: self._photometric(view, rays, target, whole, cameras)
        if exchanged is not None:
            terms["exchange"] = lambda: self._exchanged_loss(exchanged, planes[batch:], cameras[:1], whole, generator)
        found = {name: weights[name] * term() for name, term in terms.items() if weights[name]}
        if self.adversary is not None and (weight := config.adversary.at(step, self.steps)):
            found |= self.adversary(pairs, cameras, step, weight, generator)
        return found

    def batch(self) -> str:
        """The frames that were looked at last."""
        return self._seen

    def stepped(self, step: int) -> None:
        """Move the average."""
        if self.average is self.driver:
            return
        # the first weights are no good: early on the average is over what there was
        decay = min(self.config.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for mine, its in zip(self.average.parameters(), self.driver.parameters(), strict=True):
                mine.lerp_(its, 1 - decay)

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """PSNR of held-out frames, in decibels, and how much of a change shows where it should not."""
        frames = spread(self._held_out, _MEASURED)
        scores: dict[str, list[Tensor]] = {"face PSNR": [], "mouth PSNR": [], "PSNR": []}
        for index in frames:
            image, target, regions, *_ = self.frame(self.context.targets([index]))
            for name, region in (("face PSNR", regions[:, [FACE]]), ("mouth PSNR", regions[:, [MOUTH]])):
                scores[name].append(losses.psnr(image, target, region))
            scores["PSNR"].append(losses.psnr(image, target, torch.ones_like(image[:, :1])))
        means = {name: torch.stack(values).nanmean().item() for name, values in scores.items()}
        return means | self._leaks(frames)

    @torch.inference_mode()
    def preview(self) -> dict[str, Tensor]:
        """Held-out frames as filmed and as rendered, with their difference; and one from the side."""
        frames = spread(self._held_out, _SHOWN)
        columns = []
        for index in frames:
            found, target, *_ = self.frame(self.context.targets([index]))
            columns.append([pixels(picture[0]) for picture in (target, found, (found - target).abs() - 1)])
        first, scene = self.context.targets(frames[:1]), self.context.identity.config
        views = [scene.camera(yaw=yaw).to(self.context.device)[None] for yaw in (-30, 0, 30)]
        turned = [pixels(self.frame(first, camera).found[0]) for camera in views]
        return {"frames": grid(list(zip(*columns, strict=True))), "turned": grid([turned])}

    def take_best(self, folder: Path) -> None:
        """Go back to the best checkpoint in a run's folder, if there is one."""
        Checkpoints(folder / "checkpoints" / self.name, self.context.config.run.keep).load_best(self.modules())

    def frame(self, target: Target, cameras: Tensor | None = None) -> Pair:
        """Render frames with the averaged weights, over the plate; super-resolved, where that was trained before."""
        cameras = self.context.cameras(target.index) if cameras is None else cameras
        view = self.context.identity.render(self._planes(target.features, target.conditions), cameras)
        return self._pairs(view, target, (0, 0, self.context.identity.config.resolution))[-1]

    def _planes(self, features: Tensor, conditions: Conditions) -> Tensor:
        planes = self.context.identity.planes
        return planes + self.average(features, conditions, planes)

    def _draw(self, step: int, window: int) -> list[int]:
        seed, batch = self.context.config.seed, self.config.batch
        turn = self.context.parts.turn(step)
        if window == 1:
            return in_turn(self._frames, batch, turn, seed)
        starts = in_turn(self._windows, batch // window, turn, seed + 1)
        return [start + k for start in starts for k in range(window)]

    def _place(self, generator: torch.Generator) -> tuple[int, int, int]:
        """Top, left and side of the part of a view that a step renders."""
        size = self.context.identity.config.resolution
        side = max(round(self.config.part * size), 1)
        top, left = torch.randint(size - side + 1, (2,), generator=generator).tolist()
        return top, left, side

    def _render(
        self, planes: Tensor, cameras: Tensor, place: tuple[int, int, int], generator: torch.Generator
    ) -> tuple[View, tuple[Tensor, Tensor]]:
        """Render a part of the views; also returns its rays."""
        scene, (top, left, side) = self.context.identity, place
        size, options, device = scene.config.resolution, scene.config.rendering, planes.device
        origins, directions = (
            part.unflatten(1, (size, size))[:, top : top + side, left : left + side].flatten(1, 2)
            for part in cams.rays(*cams.unpack(cameras), size)
        )
        jitter, u = (
            uniform(generator, device, len(cameras), side * side, count) for count in (options.coarse, options.fine)
        )
        seen = render_rays(planes, scene.decoder.weights(), origins, directions, options, jitter=jitter, u=u)
        features = seen.features.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # channels-last, also to torch
        view = View(features, *(part.unflatten(1, (1, side, side)) for part in seen[1:]))
        return view, (origins, directions)

    def _pairs(self, view: View, target: Target, place: tuple[int, int, int]) -> list[Pair]:
        """A part of a view beside its target; and super-resolved, without the rim that saw the cut."""
        raw = composite(view.features[:, :3], view.weight, target.view_plate)
        pairs = [Pair(raw, target.view_image, target.view_regions, place[:2], self.context.targets.view)]
        if self._enlarge is not None:
            size, (top, left, side) = self.context.identity.config.resolution, place
            image = composite(self._enlarge(view.features, part=side < size), view.weight, target.plate)
            times = image.shape[-1] // side
            rows, columns = (
                slice(times * _RIM * (start > 0), times * (side - _RIM * (start + side < size)))
                for start in (top, left)
            )
            cut, filmed, regions = (part[..., rows, columns] for part in (image, target.image, target.regions))
            corner = (times * top + rows.start, times * left + columns.start)
            pairs.append(Pair(cut, filmed, regions, corner, self.context.targets.picture))
        return pairs

    def _photometric(
        self, view: View, rays: tuple[Tensor, Tensor], target: Target, whole: Target, cameras: Tensor
    ) -> Tensor:
        """Each frame of a window against the next."""
        here = torch.arange(len(cameras), device=cameras.device).view(-1, self.config.window)[:, :-1].flatten()
        rays = (rays[0][here], rays[1][here])
        fetched = losses.warp(whole.view_image[here + 1], view.depth[here], rays, cameras[here + 1])
        regions = target.view_regions[here]
        rigid = (regions[:, FACE] - regions[:, MOUTH] - regions[:, EYES]).clamp(0, 1)[:, None]
        return losses.photometric(target.view_image[here], *fetched, rigid)

    def _exchange(self, target: Target, generator: torch.Generator) -> tuple[int, Tensor]:
        """Tokens of the first frame with something of another frame, and the region that stays."""
        other = self._frames[int(torch.randint(len(self._frames), (), generator=generator))]
        kind, region = _EXCHANGES[int(torch.randint(len(_EXCHANGES), (), generator=generator))]
        strange = self.context.targets([other])
        features, conditions = target.features[:1], Conditions(*(part[:1] for part in target.conditions))
        if kind == "speech":
            features = strange.features
        elif kind == "blink":
            # most frames have open eyes: another one's blink would seldom be another
            conditions = conditions._replace(blink=uniform(generator, strange.blink.device, 1))
        else:
            conditions = conditions._replace(angles=strange.angles, landmarks=strange.landmarks)
        return region, self.driver.conditions(features, conditions)

    def _exchanged_loss(
        self, region: int, planes: Tensor, camera: Tensor, target: Target, generator: torch.Generator
    ) -> Tensor:
        """Absolute difference at random pixels of a region of the first frame."""
        size, options = target.image.shape[3], self.context.identity.config.rendering
        # without the region any pixel will do; a look at whether there is one would wait for a GPU
        chances = target.regions[0, region].flatten().cumsum(0) + 1e-9
        chosen = torch.searchsorted(chances, chances[-1] * uniform(generator, planes.device, _RAYS))
        origins, directions = (part[:, chosen] for part in cams.rays(*cams.unpack(camera), size))
        jitter, u = (uniform(generator, planes.device, 1, _RAYS, count) for count in (options.coarse, options.fine))
        decoder = self.context.identity.decoder.weights()
        seen = render_rays(planes, decoder, origins, directions, options, jitter=jitter, u=u)
        plate, image = (part[0].flatten(1)[:, chosen].T[None] for part in (target.plate, target.image))
        return losses.l1(seen.features[..., :3] + (1 - seen.weight[..., None]) * (plate + 1), image)

    def _leaks(self, frames: list[int]) -> dict[str, float]:
        """Change in one region over the change in the other, when only blink, or only speech, is another."""
        context = self.context
        moved: dict[str, list[Tensor]] = {"blink": [], "speech": []}
        for index, other in zip(frames, frames[::-1], strict=True):
            target, strange = context.targets([index]), context.targets([other])
            conditions = target.conditions
            shut, opened = (conditions._replace(blink=torch.full_like(target.blink, value)) for value in (1.0, 0.0))
            for kind, one, two in (
                ("blink", (target.features, opened), (target.features, shut)),
                ("speech", (target.features, conditions), (strange.features, conditions)),
            ):
                views = [
                    context.identity.render(self._planes(*driven), context.cameras(target.index)).features[:, :3]
                    for driven in (one, two)
                ]
                change = (views[0] - views[1]).abs().mean(1)
                regions = target.view_regions
                moved[kind].append(
                    torch.stack([(change * regions[:, r]).sum() / regions[:, r].sum() for r in (MOUTH, EYES)])
                )
        means = {kind: torch.stack(values).nanmean(0) for kind, values in moved.items()}
        return {
            "blink in mouth": (means["blink"][0] / means["blink"][1].clamp(min=1e-6)).item(),
            "speech in eyes": (means["speech"][1] / means["speech"][0].clamp(min=1e-6)).item(),
        }


def _with_blinks(targets: Targets) -> list[int]:
    """Frames to train on; those with closed eyes, which are rare, up to four times more, for a sixth of all."""
    frames = targets.frames("train")
    closed = [i for i in frames if targets.dataset.blink[i].mean() > _CLOSED]
    return frames + closed * min(len(frames) // (6 * max(len(closed), 1)), 4)
