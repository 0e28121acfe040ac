"""Bytes that each loss of a driver's step keeps for the backward, and what it computes; on a CPU, without a clock.

    python benchmarks/loss_memory.py [--batch 4] [--picture 512] [--view 128] [--json]

Pictures, views and delta planes are random, of the sizes of the preset "full"; networks that judge have random weights.
Bytes: every storage that autograd still holds when the loss is computed counts once, weights do not. "All" is of all
losses of one step: what several hold counts once. FLOPs: products and convolutions, forward and backward.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from talk3d.models.discriminator import DualDiscriminator
from talk3d.networks import ArcFace, LipSyncExpert
from talk3d.testing import held
from talk3d.training import judges, losses
from talk3d.training.adversary import Adversary, Crops
from talk3d.training.config_prior import AdversaryConfig
from talk3d.training.lean import at_once
from talk3d.training.pairs import Pair
from talk3d.training.perceptual import Perceptual
from talk3d.training.targets import EYES, MOUTH


def frozen(module: nn.Module) -> Any:
    return module.eval().requires_grad_(False)


def lpips(perceptual: Perceptual) -> Perceptual:
    """LPIPS of random weights."""
    import lpips as package

    perceptual.lpips = frozen(package.LPIPS(net="alex", pnet_rand=True, pretrained=False, verbose=False))
    return perceptual


def cases(
    batch: int, picture: int, view: int, *, shared: bool
) -> tuple[dict[str, Callable[[], Tensor]], list[nn.Module]]:
    """The losses of a step by name, and the networks that they use; differences of pictures may be shared."""
    torch.manual_seed(0)

    def pair(side: int) -> Pair:
        found = torch.rand(batch, 3, side, side, requires_grad=True) * 2 - 1
        regions = (torch.rand(batch, 4, side, side) > 0.5).float()
        return Pair(found, torch.rand(batch, 3, side, side) * 2 - 1, regions, (0, 0), side)

    pairs = [pair(view), pair(picture)]
    raw, large = pairs
    weight = torch.rand(batch, 1, view, view, requires_grad=True) * 1
    delta = torch.rand(batch + 1, 3, 32, 256, 256, requires_grad=True) * 1
    planes, cut = torch.rand(1, 3, 32, 256, 256), (-1, 2)
    face, expert = frozen(ArcFace()), frozen(LipSyncExpert())
    critic = Adversary(AdversaryConfig(), DualDiscriminator(64, channel_base=8192, channel_max=512, group=batch))
    crops = [Crops(p[..., :64, :64], r[..., :16, :16]) for p, r in zip(large[:2], raw[:2], strict=True)]
    cameras = torch.rand(batch, 25)
    plain, learned = Perceptual(), lpips(Perceptual())
    boxes = torch.tensor([0.2, 0.2, 0.8, 0.8]).expand(batch, -1)
    with torch.no_grad():
        wanted = judges.recognised(face, large.target, large.regions[:, :1])

    def own() -> list[Pair]:
        return pairs if shared else [Pair(*p) for p in pairs]

    def sync(found: Tensor) -> Tensor:
        mouths = judges.mouths(found, boxes).repeat(1, 5, 1, 1)
        return judges.lip_sync(*expert(torch.rand(batch, 1, 80, 16), mouths))

    found: dict[str, Callable[[], Tensor]] = {
        "l1": lambda: torch.stack([p.l1() for p in own()]).sum(),
        "mouth": lambda: torch.stack([p.within(MOUTH) for p in own()]).sum(),
        "eyes": lambda: torch.stack([p.within(EYES) for p in own()]).sum(),
        "perceptual, MS-SSIM": lambda: plain(large.found, large.target),
        "perceptual, LPIPS": lambda: learned(large.found, large.target),
        "identity": lambda: judges.identity(face, large.found, wanted, large.regions[:, :1]),
        "sync": lambda: at_once(sync, raw.found),
        "adversary": lambda: critic.losses(*crops, cameras, 1, 1.0)["adversary"],
        "matte": lambda: losses.matte(weight, raw.regions[:, :1]),
        "temporal, pictures": lambda: losses.temporal(large.found.unflatten(0, cut), large.target.unflatten(0, cut)),
        "temporal, planes": lambda: losses.temporal(delta[:batch].unflatten(0, cut)),
        "delta": lambda: losses.delta_size(delta, planes),
    }
    return found, [face, expert, critic, learned]


def measure(case: Callable[[], Tensor], modules: list[nn.Module]) -> dict[str, int]:
    """Bytes and FLOPs of one loss."""
    with held(modules) as count:
        loss = case()
        size = count()
    del loss
    with FlopCounterMode(display=False) as flops:
        case().backward(retain_graph=True)
    return {"bytes": size, "flops": flops.get_total_flops()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--picture", type=int, default=512)
    parser.add_argument("--view", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = options.batch, options.picture, options.view
    named, modules = cases(*sizes, shared=False)
    found = {name: measure(case, modules) for name, case in named.items()}
    named, modules = cases(*sizes, shared=True)
    with held(modules) as count:
        every = [case() for case in named.values()]
        found["all"] = {"bytes": count(), "flops": sum(row["flops"] for row in found.values())}
    del every
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, row in found.items():
        print(f"{name:20} {row['bytes'] / 1e6:9.2f} MB {row['flops'] / 1e9:9.2f} GFLOP")


if __name__ == "__main__":
    main()
