"""From a clip to a dataset, and reading it: see :class:`Dataset`; ``talk3d prepare`` makes one."""

from talk3d.data.dataset import Dataset, Sample
from talk3d.data.meta import Meta
from talk3d.data.samplers import FrameSampler, PoseSampler, WindowSampler

__all__ = ["Dataset", "FrameSampler", "Meta", "PoseSampler", "Sample", "WindowSampler"]
