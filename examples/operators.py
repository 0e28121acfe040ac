"""An operator: call it, differentiate it, and compare its implementations.

python examples/operators.py            # a frame's worth of rays
python examples/operators.py --quick    # a few
"""

from __future__ import annotations

import sys
import time

import torch

from talk3d import cameras
from talk3d.ops import RenderOptions, render_rays
from talk3d.ops.registry import operators
from talk3d.testing import head_planes


def main(side: int) -> None:
    """Render a random tri-plane of ``side`` texels through ``side ** 2`` rays, forward and backward."""
    planes, decoder = head_planes(size=side)  # [1, 3, 32, side, side] and the four tensors of a decoder
    pose = cameras.look_at(yaw=20.0, pitch=10.0)
    origins, directions = cameras.rays(pose, cameras.intrinsics(cameras.FFHQ_FOCAL), side)  # [side ** 2, 3] each
    options = RenderOptions(axes="zy", coarse=24, fine=24)

    def run(impl: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
        """Features, their gradient to the planes, and what both took."""
        leaf = planes.to(dtype, copy=True).requires_grad_()
        weights = tuple(part.to(dtype) for part in decoder)
        start = time.perf_counter()
        seen = render_rays(leaf, weights, origins[None].to(dtype), directions[None].to(dtype), options, impl=impl)
        middle = time.perf_counter()
        seen.features.square().mean().backward()
        return seen.features.detach(), leaf.grad, torch.tensor([middle - start, time.perf_counter() - middle])

    exact = run("reference", torch.float64)
    print(f"{side * side} rays, 24 + 24 samples; errors are relative, against the reference in float64")
    print(f"{'':10}  forward           error     backward          error")
    for impl in operators()["render_rays"].implementations:
        try:
            run(impl)  # loads it
            *found, seconds = run(impl)
        except ValueError as reason:  # what is asked for by name never falls back to another
            print(f"{impl:10}  {reason}")
            continue
        errors = [float((f - e).norm() / e.norm()) for f, e in zip(found, exact, strict=False)]
        columns = (f"{1e3 * took:8.1f} ms  {error:12.1e}" for took, error in zip(seconds, errors, strict=True))
        print(f"{impl:10}", *columns)


if __name__ == "__main__":
    main(32 if "--quick" in sys.argv else 128)
