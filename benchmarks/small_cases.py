"""Each CUDA kernel once on a few rays, for tools that slow it down a thousandfold."""

from __future__ import annotations

import sys

import torch

from talk3d.ops import AXES
from talk3d.reference import volume
from talk3d.testing import head_planes


def main(device: str = "cuda") -> int:
    """Run every kernel of ``render_rays`` and ``sample_triplane`` on a ray count that fills no tile."""
    impl = device if device == "cuda" else "reference"
    planes, decoder = head_planes(1, 12)
    flat = torch.cat([part.flatten() for part in decoder]).to(device)
    origins = torch.nn.functional.normalize(torch.randn(1, 70, 3), dim=2) * 1.3
    directions = torch.nn.functional.normalize(0.3 * torch.randn(1, 70, 3) - origins, dim=2)
    rays = torch.cat([origins, directions, torch.tensor([0.7, 1.9]).expand(1, 70, 2)], dim=2).to(device)
    settings = [2 / 1.1, 64.0, 7.0, 5.0, 0.0, 0.0, 1.0, 0.0]
    grads = [torch.randn(1, 70, *shape, device=device) for shape in ((32,), (), ())]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        texels = planes.permute(0, 1, 3, 4, 2).contiguous().to(device, dtype)
        for axes in AXES.values():
            found = torch.ops.talk3d.render_rays(texels, flat, rays, None, None, list(axes), settings, impl)
            saved = [texels, flat, rays, *found[3:]]
            for needs in ([True, False, False], [True] * 3, [True] * 4):
                gradients = torch.ops.talk3d.render_rays_backward(grads, saved, list(axes), settings, needs, impl)
                if not all(torch.isfinite(one).all() for one in (*found[:3], *gradients)):
                    print(f"not finite: {dtype}, {axes}, {needs}", file=sys.stderr)
                    return 1
    texels, points = texels.float(), volume._positions(rays, found[3])
    pairs, sampling = list(AXES["zy"]), (2 / 1.1, True)
    features = torch.ops.talk3d.sample_triplane(texels, points, pairs, *sampling, impl)
    torch.ops.talk3d.sample_triplane_backward(features, texels, points, pairs, *sampling, True, True, impl)
    if device == "cuda":
        torch.cuda.synchronize()
    print("all kernels ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
