"""The driver stage: delta U-Net and token encoders learn what moves a person who is known at rest."""

from __future__ import annotations

import copy
import math
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
from talk3d.training.articulation import Articulation
from talk3d.training.checkpoint import Checkpoints
from talk3d.training.perceptual import Perceptual
from talk3d.training.pictures import grid, pixels
from talk3d.training.stage import StageContext, uniform
from talk3d.training.targets import EYES, FACE, MOUTH, Target, in_turn, over_color, spread

__all__ = ["DriverStage", "conditions_of"]

_RAYS = 512  # of an exchanged frame: its mouth or its eyes, several times over
_RIM = 3  # pixels of a view within which a super-resolution sees the edge of what it is given
_FINAL_RATE = 0.1
_MEASURED, _SHOWN = 12, 4  # held-out frames
# what is exchanged, and the region that it does not drive
_EXCHANGES = (("blink", MOUTH), ("speech", EYES), ("pose", FACE))


def conditions_of(target: Target) -> Conditions:
    """What is seen of the head in these frames."""
    return Conditions(target.blink, target.angles, target.landmarks)


class DriverStage:
    """Trains a driver; see :class:`talk3d.training.stage.Stage`.

    The identity is rendered with the delta planes of each frame, over the plate or, in half of the steps, over a
    colour, and compared with what was filmed, before and after super-resolution.

    Speech, blink and pose go together by chance in a short clip, so that a network may learn to read one from the
    other. Hence each step has one frame more, with the blink, the speech or the pose of another frame: of it, only what
    that does not drive is compared.

    Args:
        context: What stages share.
        perceptual: The perceptual loss.

    Attributes:
        driver: What is trained.
        average: The moving average of its weights: the result.
    """

    name = "driver"

    def __init__(self, context: StageContext, perceptual: Perceptual) -> None:
        self.context, self.config = context, context.config.driver
        self.steps = self.config.steps
        model, scene = context.config.model, context.identity.config
        unet = DeltaUNet(
            axes=scene.rendering.axes,
            channels=scene.plane_channels,
            resolution=scene.plane_resolution,
            condition=model.token,
            width=model.unet_width,
        )
        encoder = ConditionEncoder(context.targets.dataset.features_info.width, width=model.token)
        self.driver = Driver(unet, encoder).to(context.device)
        self.average = copy.deepcopy(self.driver).requires_grad_(False) if self.config.ema else self.driver
        self.perceptual = perceptual
        self.articulation = Articulation(context.targets, model.token, context.config.seed).to(context.device)
        self._frames = context.targets.frames("train")
        self._windows = context.targets.windows("train", self.config.window) if self.config.window > 1 else []
        self._held_out = context.targets.frames("val")
        self._enlarge: FoldedSuperResolution | None = None
        self._seen = ""

    def begin(self) -> None:
        """Freeze the identity, and fold its super-resolution."""
        identity = self.context.identity.eval().requires_grad_(False)
        identity.planes.requires_grad_(self.config.identity_rate > 0)
        self.context.cameras.requires_grad_(self.config.camera_rate > 0)
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
        return found

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam; what many texels share learns slowly, what is one texel's learns fast."""
        maps = [self.driver.unet.head.maps]
        shared = [p for p in self.driver.unet.parameters() if p is not maps[0]]
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
        return torch.optim.Adam(groups, betas=(0.9, 0.99))

    def rate(self, step: int) -> float:
        """Warm-up, then a cosine to a tenth."""
        rising = min(1.0, (step + 1) / (self.config.warmup + 1))
        cosine = (1 + math.cos(math.pi * step / max(self.steps, 1))) / 2
        return rising * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Render a batch, and compare."""
        assert self._enlarge is not None
        context, config = self.context, self.config
        window = config.window if step % 2 else 1
        indices = self._draw(step, window)
        self._seen = f"frames {', '.join(map(str, indices))}"
        whole = context.targets(indices)
        if torch.rand((), generator=generator) < 0.5:
            whole = over_color(whole, torch.rand(3, generator=generator) * 2 - 1)
        weights = {name: term.at(step, self.steps) for name, term in vars(config.losses).items()}

        tokens = self.driver.conditions(whole.features, conditions_of(whole))
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
        raw = composite(view.features[:, :3], view.weight, target.view_plate)
        image, target = self._enlarged(view, target, place)

        terms = {
            "l1": lambda: losses.l1(raw, target.view_image) + losses.l1(image, target.image),
            "perceptual": lambda: self.perceptual(image, target.image),
            "mouth": lambda: self._region(MOUTH, raw, image, target),
            "eyes": lambda: self._region(EYES, raw, image, target),
            "matte": lambda: losses.matte(view.weight, target.view_matte),
            "delta": lambda: losses.delta_size(delta, identity),
            "articulation": lambda: self.articulation(self.driver.conditions.audio, step),
        }
        if config.camera_rate:
            mesh = torch.as_tensor(context.targets.dataset.mesh, device=cameras.device)[None]
            terms["landmarks"] = lambda: losses.landmarks(mesh, cameras, target.tracked)
        if window > 1:
            cut = (-1, window)
            terms["temporal"] = lambda: (
                losses.temporal(image.unflatten(0, cut), target.image.unflatten(0, cut))
                + losses.temporal(delta[:batch].unflatten(0, cut)) / identity.detach().std().clamp(min=1e-4)
            )
            terms["photometric"] = lambda: self._photometric(view, rays, target, whole, cameras)
        if exchanged is not None:
            terms["exchange"] = lambda: self._exchanged_loss(exchanged, planes[batch:], cameras[:1], whole, generator)
        return {name: weights[name] * term() for name, term in terms.items() if weights[name]}

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
            mine, theirs = list(self.average.parameters()), list(self.driver.parameters())
            torch._foreach_lerp_(mine, theirs, 1 - decay)

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """PSNR of held-out frames, in decibels, and how much of a change shows where it should not."""
        frames = spread(self._held_out, _MEASURED)
        scores: dict[str, list[Tensor]] = {"face PSNR": [], "mouth PSNR": [], "PSNR": []}
        for index in frames:
            target = self.context.targets([index])
            image = self.frame(target)
            for name, region in (("face PSNR", FACE), ("mouth PSNR", MOUTH)):
                scores[name].append(losses.psnr(image, target.image, target.regions[:, region : region + 1]))
            scores["PSNR"].append(losses.psnr(image, target.image, torch.ones_like(target.matte)))
        found = {name: torch.stack(values).nanmean().item() for name, values in scores.items()}
        return found | self._leaks(frames)

    @torch.inference_mode()
    def preview(self) -> dict[str, Tensor]:
        """Held-out frames as filmed and as rendered, with their difference; and one from the side."""
        frames = spread(self._held_out, _SHOWN)
        rows = []
        for index in frames:
            target = self.context.targets([index])
            image = self.frame(target)
            rows.append([pixels(target.image[0]), pixels(image[0]), pixels((image - target.image)[0].abs() - 1)])
        target = self.context.targets(frames[:1])
        scene = self.context.identity.config
        turned = [pixels(self.frame(target, scene.camera(yaw=yaw).to(target.image)[None])[0]) for yaw in (-30, 0, 30)]
        return {"frames": grid(list(zip(*rows, strict=True))), "turned": grid([turned])}

    def best(self, folder: Path, keep: int) -> Driver:
        """The averaged driver of the best checkpoint in a run's folder, or as it is if none was measured."""
        Checkpoints(folder / "checkpoints" / self.name, keep).load_best(self.modules())
        return self.average.eval().requires_grad_(False)

    def frame(self, target: Target, cameras: Tensor | None = None) -> Tensor:
        """Render frames with the averaged weights, over the plate: ``[B, 3, P, P]``."""
        assert self._enlarge is not None
        cameras = self.context.cameras(target.index) if cameras is None else cameras
        view = self.context.identity.render(self._planes(target.features, conditions_of(target)), cameras)
        return composite(self._enlarge(view.features), view.weight, target.plate)

    def _planes(self, features: Tensor, conditions: Conditions) -> Tensor:
        planes = self.context.identity.planes
        return planes + self.average(features, conditions, planes)

    def _draw(self, step: int, window: int) -> list[int]:
        seed, batch = self.context.config.seed, self.config.batch
        if window == 1:
            return in_turn(self._frames, batch, step, seed)
        starts = in_turn(self._windows, batch // window, step, seed + 1)
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
        features = seen.features.mT.unflatten(2, (side, side))
        view = View(features, *(part.unflatten(1, (1, side, side)) for part in seen[1:]))
        return view, (origins, directions)

    def _enlarged(self, view: View, target: Target, place: tuple[int, int, int]) -> tuple[Tensor, Target]:
        """Super-resolve a part, and cut off the rim where its convolutions saw the cut."""
        assert self._enlarge is not None
        size = self.context.identity.config.resolution
        top, left, side = place
        if side == size:
            return composite(self._enlarge(view.features), view.weight, target.plate), target
        image = composite(self._enlarge(view.features, part=True), view.weight, target.plate)
        times = image.shape[-1] // side
        rows, columns = (
            slice(times * _RIM * (start > 0), times * (side - _RIM * (start + side < size))) for start in (top, left)
        )
        cut = {name: getattr(target, name)[..., rows, columns] for name in ("image", "matte", "regions", "plate")}
        return image[..., rows, columns], target._replace(**cut)

    def _region(self, region: int, raw: Tensor, image: Tensor, target: Target) -> Tensor:
        small, large = (regions[:, region : region + 1] for regions in (target.view_regions, target.regions))
        return losses.region_l1(raw, target.view_image, small) + losses.region_l1(image, target.image, large)

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
        features, conditions = target.features[:1], Conditions(*(part[:1] for part in conditions_of(target)))
        if kind == "speech":
            features = strange.features
        elif kind == "blink":
            conditions = conditions._replace(blink=strange.blink)
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
            conditions = conditions_of(target)
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
