"""Networks at the published sizes, baked or unbaked, each beside its literal form.

The peer is the same network with ``talk3d.reference`` under it: dense roll-out, literal attention, zeros inserted where
StyleGAN inserts them, nothing cached and nothing folded. It is differentiated by our operators, whose backward is as
literal there.
"""

from __future__ import annotations

import copy
from functools import cache, partial

import torch
from torch import Tensor

import talk3d
from case import CHANNELS, LAYOUTS, Case, Function, Problem, Size, Tensors, forward, forward_backward
from talk3d import cameras
from talk3d.models import ConditionEncoder, Conditions, DeltaUNet, Driver, Identity, SceneConfig, SuperResolution
from talk3d.models.delta import IdentityFeatures, fold_batch_norm
from talk3d.ops import RenderOptions
from talk3d.testing import head_planes

SPEECH = 44  # characters that Talk3D's speech recogniser tells apart
TOKENS, CONDITION, W_DIM = 5, 64, 512
BATCH = 4  # frames in a training step
ONE_LAYOUT = ("channels-last",)  # of a first leaf that is no picture

# GFLOP of the published networks at full size, by torch's counter; a multiplication and an addition are two
UNET_GFLOP, SUPERRESOLUTION_GFLOP, RENDERER_GFLOP = 150.2, 197.6, 14.3


@cache
def avatar(size: Size) -> talk3d.Avatar:
    """Talk3D's networks with random weights, and planes whose density is spread as in a trained head."""
    torch.manual_seed(0)
    rendering = RenderOptions(axes="zy", coarse=size.coarse, fine=size.fine)
    config = SceneConfig(
        rendering=rendering,
        resolution=size.rays,
        superresolution=_variant(size),
        plane_resolution=size.planes,
        focal=cameras.TALK3D_FOCAL,
        pivot=cameras.TALK3D_PIVOT,
    )
    identity = Identity(config)
    planes, (w0, b0, w1, b1) = head_planes(size=size.planes)
    decoder = identity.decoder
    with torch.no_grad():
        identity.planes.copy_(planes)
        identity.w.normal_()
        for layer, weight, bias in ((decoder.hidden, w0, b0), (decoder.output, w1, b1)):
            layer.weight.copy_(weight * weight.shape[1] ** 0.5)  # which the layer divides by
            layer.bias.copy_(bias)
    unet = make_unet(size, "published")
    conditions = ConditionEncoder(SPEECH, semantics="published")
    return talk3d.Avatar(identity, Driver(unet, conditions)).eval().requires_grad_(False)


def frame_problem(size: Size, seed: int) -> Problem:
    """A speech window, and what is seen of the head; the camera turns by 3 degrees for each seed."""
    generator = torch.Generator().manual_seed(seed)
    camera = avatar(size).identity.config.camera(3.0 * seed)
    features = torch.randn(1, 8, 16, SPEECH, generator=generator)
    numbers = torch.rand(1, 10, generator=generator)
    blink, angles, landmarks = numbers.split((1, 3, 6), dim=1)
    return Problem((features, blink[:, 0], 20 * angles - 10, landmarks.view(1, 3, 2) - 0.5, camera[None]), ())


def frame_ours(size: Size, impl: str, *, dtype: torch.dtype = torch.float32) -> Function:
    """From the speech window to the picture, baked."""
    baked = avatar(size).bake(dtype)

    def function(features: Tensor, blink: Tensor, angles: Tensor, landmarks: Tensor, camera: Tensor) -> Tensors:
        with talk3d.use(_fastest(impl)):
            tokens = baked.tokens(features, Conditions(blink, angles, landmarks))
            return (baked.frames(tokens, camera).image,)

    return function


def frame_peer(size: Size) -> Function:
    """The same, unbaked and literal."""

    def function(features: Tensor, blink: Tensor, angles: Tensor, landmarks: Tensor, camera: Tensor) -> Tensors:
        with talk3d.use("reference"):
            return (avatar(size)(features, Conditions(blink, angles, landmarks), camera).image,)

    return function


def unet_problem(size: Size, seed: int) -> Problem:
    """Condition tokens of a frame."""
    generator = torch.Generator().manual_seed(seed)
    return Problem((torch.randn(1, TOKENS, CONDITION, generator=generator),), ())


def unet_ours(size: Size, impl: str, *, dtype: torch.dtype = torch.float32) -> Function:
    """The way up, from a cached identity."""
    unet = fold_batch_norm(avatar(size).driver.unet)
    with torch.no_grad():
        features = IdentityFeatures(*(part.to(dtype) for part in unet.encode(avatar(size).identity.planes)))
    unet = unet.to(dtype)

    def function(tokens: Tensor) -> Tensors:
        with talk3d.use(_fastest(impl)):
            return (unet(tokens.to(dtype), features).float(),)

    return function


def unet_peer(size: Size) -> Function:
    """The whole network."""
    unet, planes = avatar(size).driver.unet, avatar(size).identity.planes

    def function(tokens: Tensor) -> Tensors:
        with talk3d.use("reference"):
            return (unet(tokens, planes),)

    return function


def superresolution_problem(size: Size, seed: int) -> Problem:
    """Rendered features, channels-last."""
    generator = torch.Generator().manual_seed(seed)
    return Problem((torch.randn(1, size.rays, size.rays, CHANNELS, generator=generator),), ())


def superresolution_ours(size: Size, impl: str, *, dtype: torch.dtype = torch.float32) -> Function:
    """Folded into plain convolutions."""
    network, w = _superresolution(size)
    folded = network.fold(w[0]).to(dtype)

    def function(features: Tensor) -> Tensors:
        with talk3d.use(_fastest(impl)):
            return (folded(features.permute(0, 3, 1, 2)),)

    return function


def superresolution_peer(size: Size) -> Function:
    """Modulated for each picture."""
    network, w = _superresolution(size)

    def function(features: Tensor) -> Tensors:
        pictures = features.permute(0, 3, 1, 2)
        layout = torch.contiguous_format if pictures.is_contiguous() else torch.channels_last
        network.to(memory_format=layout)
        with talk3d.use("reference"):
            return (network(pictures, w),)

    return function


def training_problem(size: Size, seed: int) -> Problem:
    """Condition tokens of a batch, and the weights that learn."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(BATCH, TOKENS, CONDITION, generator=generator)
    grads = torch.randn(BATCH, 3, CHANNELS, size.planes, size.planes, generator=generator)
    return Problem((tokens, *_trained(size).parameters()), (grads,))


def training_ours(size: Size, impl: str) -> Function:
    """The way down once for the whole batch."""
    unet, planes = _trained(size), avatar(size).identity.planes

    def function(tokens: Tensor, *weights: Tensor) -> Tensors:
        with talk3d.use(_fastest(impl)):
            return (unet(tokens, planes),)

    return function


def training_peer(size: Size) -> Function:
    """Everything for each sample."""
    unet, planes = _trained(size), avatar(size).identity.planes.repeat(BATCH, 1, 1, 1, 1)

    def function(tokens: Tensor, *weights: Tensor) -> Tensors:
        with talk3d.use("reference"):
            return (unet(tokens, planes),)

    return function


def training_exact(size: Size, problem: Problem) -> Tensors:
    """The same in float64. In float32, rounding takes some activations across the kink of a leaky ReLU."""
    unet, planes = copy.deepcopy(_trained(size)).double(), avatar(size).identity.planes.double()

    def function(tokens: Tensor, *weights: Tensor) -> Tensors:
        with talk3d.use("torch"):
            return (unet(tokens, planes),)

    leaves = problem.leaves[0].double(), *unet.parameters()
    exact = Problem(leaves, tuple(grad.double() for grad in problem.grads))
    return forward_backward(function, exact)()


def _fastest(impl: str) -> str:
    # the operators of a network have different implementations: "cpu" stands for whatever is fastest on it
    return "auto" if impl == "cpu" else impl


def _variant(size: Size) -> str:
    return "8xdc" if size.rays == 128 else "2x"


def make_unet(size: Size, semantics: str) -> DeltaUNet:
    unet = DeltaUNet(axes="zy", semantics=semantics, resolution=size.planes)
    for parameter in unet.parameters():
        if not parameter.any():  # layers that start from nothing would leave nothing to compare
            torch.nn.init.normal_(parameter, std=0.02)
    return unet


@cache
def _trained(size: Size) -> DeltaUNet:
    torch.manual_seed(0)
    return make_unet(size, "aligned")


@cache
def _superresolution(size: Size) -> tuple[SuperResolution, Tensor]:
    torch.manual_seed(0)
    return SuperResolution(_variant(size)).eval().requires_grad_(False), torch.randn(1, W_DIM)


def _work(gflop: float, size: Size) -> float:
    return 1e9 * gflop * (size.planes / 256) ** 2


def _bytes(size: Size) -> float:
    return 4 * 3 * (4 * size.rays) ** 2


_case = partial(Case, timed=forward, layouts=ONE_LAYOUT, traffic=_bytes, rounds=9)
_frame = partial(
    _case,
    problem=frame_problem,
    peer=frame_peer,
    flop=lambda size: _work(UNET_GFLOP + RENDERER_GFLOP + SUPERRESOLUTION_GFLOP, size),
)
_delta = partial(_case, problem=unet_problem, peer=unet_peer, flop=lambda size: _work(UNET_GFLOP, size))
_enlarge = partial(
    _case,
    problem=superresolution_problem,
    peer=superresolution_peer,
    flop=lambda size: _work(SUPERRESOLUTION_GFLOP, size),
    layouts=LAYOUTS,
)
_bfloat16 = {"tolerance": 5e-2, "lossy": True}  # eight bits of mantissa through a dozen layers
CASES = {
    "frame": _frame(ours=frame_ours, tolerance=1e-5),
    "frame_bfloat16": _frame(ours=partial(frame_ours, dtype=torch.bfloat16), **_bfloat16),
    "delta_unet": _delta(ours=unet_ours, tolerance=1e-5),
    "delta_unet_bfloat16": _delta(ours=partial(unet_ours, dtype=torch.bfloat16), **_bfloat16),
    "superresolution": _enlarge(ours=superresolution_ours, tolerance=1e-5),
    "superresolution_bfloat16": _enlarge(ours=partial(superresolution_ours, dtype=torch.bfloat16), **_bfloat16),
    "delta_unet_training": Case(
        problem=training_problem,
        ours=training_ours,
        peer=training_peer,
        timed=forward_backward,
        flop=lambda size: 3 * BATCH * _work(UNET_GFLOP, size),
        traffic=lambda size: BATCH * size.planes_bytes,
        tolerance=1e-5,
        rounds=9,
        exact=training_exact,
        layouts=ONE_LAYOUT,
    ),
}
