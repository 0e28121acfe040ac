"""Everything that can be set about training, with its presets; a file of TOML, or the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from talk3d.models.scene import SceneConfig
from talk3d.models.superresolution import Variant
from talk3d.ops import RenderOptions
from talk3d.ops.triplane import Axes
from talk3d.training.config_prior import AdversaryConfig, PriorConfig
from talk3d.training.options import OptionalPath

__all__ = [
    "PRESETS",
    "DriverLosses",
    "DriverStageConfig",
    "FitConfig",
    "IdentityLosses",
    "IdentityStageConfig",
    "ModelConfig",
    "Preset",
    "RunConfig",
    "SuperResolutionStageConfig",
    "Term",
]

Preset = Literal["demo", "draft", "full"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of an avatar that is made from a clip alone; the defaults are the published ones."""

    axes: Axes = "zy"
    """Convention of the planes."""

    box_warp: float = 1.0
    """Side of the cube that the planes cover, in units of the world."""

    plane_resolution: int = 256
    """Side of a plane in texels, a multiple of 8."""

    plane_channels: int = 32
    """Channels of a plane, and of the rendered features."""

    view: int = 128
    """Side of the rendered features in pixels."""

    coarse: int = 48
    """Samples of a ray's first pass."""

    fine: int = 48
    """Samples of its second pass."""

    superresolution: Variant = "8xdc"
    """From the rendered features to the picture."""

    w_dim: int = 512
    """Width of the latent that styles the super-resolution."""

    unet_width: int = 64
    """Channels of a plane after the first level of the delta U-Net; each further level has twice as many."""

    token: int = 64
    """Width of a condition token."""

    def scene(self, *, focal: float, radius: float, pivot: tuple[float, float, float]) -> SceneConfig:
        """Sizes and conventions of the identity, with the frontal camera that the crops are aligned by."""
        return SceneConfig(
            # within the box alone: what is before it, no frame from the front would contradict
            rendering=RenderOptions(
                axes=self.axes, near="auto", far="auto", box_warp=self.box_warp, coarse=self.coarse, fine=self.fine
            ),
            resolution=self.view,
            superresolution=self.superresolution,
            w_dim=self.w_dim,
            plane_resolution=self.plane_resolution,
            plane_channels=self.plane_channels,
            focal=focal,
            radius=radius,
            pivot=pivot,
        )


@dataclass(frozen=True, kw_only=True)
class Term:
    """How much a loss counts, and when."""

    weight: float
    """0 switches it off."""

    start: float = 0.0
    """Share of the stage's steps before it counts at all."""

    ramp: float = 0.0
    """Share of the stage's steps in which its weight then grows from 0."""

    def at(self, step: int, steps: int) -> float:
        """Weight in one step of so many."""
        since = step - self.start * steps
        if since < 0:
            return 0.0
        return self.weight * (min(1.0, since / (self.ramp * steps)) if self.ramp else 1.0)


@dataclass(frozen=True, kw_only=True)
class IdentityLosses:
    """Losses of the identity stage; :mod:`talk3d.training.identity` says what each is."""

    color: float = 1.0
    """Absolute difference of the composite and the frame; lips and lids, which move, count a tenth."""

    matte: float = 0.5
    """Cross entropy between opacity and the matte: where the person ends."""

    mesh: float = 2.0
    """Depth of the face against the personal mesh; without it a frontal face is flat, or hollow."""

    smooth: float = 0.2
    """Total variation of the planes: what no frame shows goes on as its neighbours do."""

    outside: float = 1.0
    """Density at points outside the proxy: floaters, and the wall behind the head that no frame contradicts."""

    inside: float = 1.0
    """Missing density at points inside the proxy: a head is opaque, so that its depth is that of its surface."""

    paint: float = 0.3
    """Colour just behind the surface against the frame that sees the surface: of the sides that no frame shows."""

    bend: float = 1.0
    """Second differences of depth: skin is smooth, and colours alone do not say so."""

    side: float = 1.0
    """Opacity from the side against the proxy: the silhouette that no frame shows, and what is decoded beyond the faces
    of the box, where planes are zero and the last sample of a ray may lie."""

    camera: float = 0.01
    """Cameras against where they began: squares, in degrees and in hundredths of a unit."""


@dataclass(frozen=True, kw_only=True)
class IdentityStageConfig:
    """The person at rest, from frames and a head proxy."""

    steps: int = 8000
    """How many, after the warm-up."""

    warmup: int = 150
    """Steps that make the density that of the proxy."""

    proxy: Annotated[bool, tyro.conf.arg(help_behavior_hint="(default: held)")] = True  # an option is --no-proxy
    """Hold the geometry by the personal mesh and the head proxy. Without them only the front looks right."""

    plane_rate: float = 1e-2
    """Adam's learning rate for the planes."""

    decoder_rate: float = 2e-3
    """For the decoder."""

    camera_rate: float = 0.0
    """For six degrees of freedom of each frame's camera, from a quarter of the steps on. 0 leaves them: a frame that is
    seen once or twice says less about its camera than all said before; long runs may gain from 1e-5."""

    refine: int = 450
    """Steps in which frames correct the tracked cameras before all else; 0 trusts the track."""

    levels: int = 4
    """The planes are a sum of so many, each half as fine as the one before: coarse ones reach where no ray went."""

    losses: IdentityLosses = IdentityLosses()
    """What is minimised. Those of mesh and proxy count half in the second half: by then the frames know better."""


@dataclass(frozen=True, kw_only=True)
class SuperResolutionStageConfig:
    """Super-resolution alone; planes, decoder and driver are frozen."""

    before: int = 2000
    """Steps before the driver's, for the person at rest, so that the driver is compared super-resolved, too. Without
    them the driver's steps are cheaper, and it is compared as it is rendered."""

    steps: int = 1000
    """Steps after the driver's, for the person who moves."""

    batch: int = 2
    """Frames in a step."""

    rate: float = 2e-3
    """Adam's learning rate."""


@dataclass(frozen=True, kw_only=True)
class DriverLosses:
    """Losses of the driver; :mod:`talk3d.training.losses` says what each is and how it is normalised."""

    l1: Term = Term(weight=1.0)
    """Absolute difference of the pictures."""

    perceptual: Term = Term(weight=0.2)
    """LPIPS if its weights are there, multi-scale structural similarity and gradients otherwise."""

    mouth: Term = Term(weight=1.0)
    """Absolute difference in the mouth region."""

    eyes: Term = Term(weight=0.3)
    """Absolute difference in the eye region."""

    matte: Term = Term(weight=0.1)
    """Cross entropy between opacity and the matte."""

    landmarks: Term = Term(weight=0.1)
    """Tracked landmarks against the projected personal mesh; counts where cameras are trained, which it holds."""

    photometric: Term = Term(weight=0.0)
    """Neighbouring frames warped into each other through the rendered depth."""

    temporal: Term = Term(weight=0.5)
    """Change from frame to frame against the change of the targets; needs windows of at least two frames."""

    delta: Term = Term(weight=0.01)
    """Size of the delta planes."""

    articulation: Term = Term(weight=0.2)
    """Where the tracked lips are, read off the speech token by a linear layer that is thrown away in the end; of 32
    frames more, which costs next to nothing as none is rendered."""

    identity: Term = Term(weight=0.06)
    """Whether ArcFace sees the same person; needs its weights. As much beside l1 as was published: 1 to 16."""

    sync: Term = Term(weight=6e-4, start=0.7)
    """Whether Wav2Lip's expert sees lips move as the sound says; needs its weights. As much beside l1 as was published,
    0.01 to 16, and as late: in the last 9 of 30 epochs."""

    exchange: Term = Term(weight=1.0)
    """With another blink, or the speech or the pose of another frame, what these do not drive looks as it did."""


@dataclass(frozen=True, kw_only=True)
class DriverStageConfig:
    """Delta U-Net and token encoders; the identity is frozen."""

    steps: int = 80_000
    """How many."""

    batch: int = 4
    """Frames in a step, a multiple of the window."""

    window: int = 2
    """Consecutive frames that every second step looks at; the others look at single frames. 1 means all do."""

    part: float = 1.0
    """Share of a view's side that a step renders, somewhere in it: steps are cheaper, and more of them fit."""

    rate: float = 5e-4
    """Adam's learning rate for the token encoders."""

    unet_rate: float = 5e-5
    """For the U-Net, whose weights all texels share."""

    map_rate: float = 2e-3
    """For its maps, each number of which is one texel's."""

    identity_rate: float = 0.0
    """For the identity's planes; 0 freezes them."""

    camera_rate: float = 0.0
    """For the cameras; 0 freezes them."""

    recompute: bool = False
    """Compute the U-Net's activations again in the backward: a fraction of the memory, a quarter more time."""

    warmup: int = 50
    """Steps in which the learning rates grow from 0; they fall to a tenth along a cosine after that."""

    ema: float = 0.999
    """Decay of the moving average of the weights, which is what is kept; 0 keeps the weights themselves."""

    losses: DriverLosses = DriverLosses()
    """What is minimised."""

    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    """A discriminator beside these."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.window < 1 or self.batch % self.window:
            raise ValueError(
                f"driver.batch must be a multiple of driver.window, both at least 1, got {self.batch} and {self.window}"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What does not change the result, but for the precision."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""

    save_every: int = 1000
    """Steps between checkpoints, each with pictures and held-out figures."""

    keep: int = 2
    """Latest checkpoints that stay of each stage; the best one stays besides."""

    log_every: int = 10
    """Steps between figures of the losses."""

    clip: float = 1.0
    """Largest norm of the gradient; what is longer is shortened. 0 leaves it as it is."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of networks, not of the renderer; auto takes bfloat16 on a GPU."""

    cache: int = 2048
    """Megabytes for decoded frames, of the device that trains."""

    lpips: OptionalPath = None
    """Local weights of torchvision's AlexNet, alexnet-owt-7be5be79.pth, for LPIPS. Nothing is downloaded."""

    arcface: OptionalPath = None
    """Local weights of ArcFace IR-SE50, model_ir_se50.pth, for the identity loss; docs/prior.md says more."""

    lipsync: OptionalPath = None
    """Local weights of Wav2Lip's expert, lipsync_expert.pth, for the lip-sync loss."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Everything about ``talk3d fit``. The defaults are those of the preset "full"."""

    seed: int = 0
    """Two runs on a CPU with one seed give the same numbers."""

    parts: int = 1
    """Batches of a step, whose gradients are averaged. Processes of torchrun share them out; one computes them all."""

    model: ModelConfig = ModelConfig()
    identity: IdentityStageConfig = IdentityStageConfig()
    superresolution: SuperResolutionStageConfig = SuperResolutionStageConfig()
    driver: DriverStageConfig = DriverStageConfig()
    prior: PriorConfig = field(default_factory=PriorConfig)
    run: RunConfig = RunConfig()


_SMALL = ModelConfig(
    plane_resolution=128, view=64, coarse=16, fine=16, superresolution="small", w_dim=32, unet_width=32
)

PRESETS: dict[Preset, FitConfig] = {
    "demo": FitConfig(
        model=_SMALL,
        identity=IdentityStageConfig(steps=700),
        superresolution=SuperResolutionStageConfig(before=0, steps=300),
        driver=DriverStageConfig(steps=500, batch=2, part=0.625, rate=1e-3, map_rate=5e-3, ema=0.98),
        run=RunConfig(save_every=250),
    ),
    "draft": FitConfig(
        model=ModelConfig(view=64, coarse=24, fine=24, superresolution="small", w_dim=32, unet_width=32),
        # identity 6, driver 15, super-resolution 1 of the 25 minutes that it may take on two cores
        identity=IdentityStageConfig(steps=1200),
        superresolution=SuperResolutionStageConfig(before=0, steps=300),
        driver=DriverStageConfig(steps=500, batch=2, part=0.625, rate=1e-3, map_rate=5e-3, ema=0.98),
        run=RunConfig(save_every=500),
    ),
    "full": FitConfig(),
}
