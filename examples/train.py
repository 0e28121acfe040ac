"""From a clip to an avatar in Python: film the synthetic person, prepare, fit. Sizes are tiny, so it is a smear.

    python examples/train.py work            # half a minute on a CPU
    python examples/train.py work --quick    # two steps of everything
    python examples/render.py work/avatar talking.mp4

It needs the tracker: pip install 'talk3d[prepare]'.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from talk3d.data import Dataset, synthetic
from talk3d.data.prepare import Options, prepare
from talk3d.training.config import PRESETS, FitConfig, ModelConfig
from talk3d.training.fit import fit


def config(*, quick: bool) -> FitConfig:
    """Change the preset for a CPU, as ``talk3d fit --preset demo --driver.steps 40 ...`` would."""
    demo, steps = PRESETS["demo"], 2 if quick else 40
    return replace(
        demo,
        model=ModelConfig(
            plane_resolution=64, view=64, coarse=8, fine=8, superresolution="small", w_dim=16, unet_width=16
        ),
        identity=replace(demo.identity, warmup=steps, steps=steps, refine=0, proxy=not quick),
        superresolution=replace(demo.superresolution, before=0, steps=steps // 2),
        driver=replace(demo.driver, steps=steps),
    )


def main(work: Path, *, quick: bool = False) -> Path:
    """Go the whole way in a folder; returns the avatar's."""
    clip = synthetic.cached(track="talk", size=128, seconds=3)
    data, avatar = work / "data", work / "avatar"
    prepare(clip.video, data, Options(size=256, overview=False, overwrite=True))
    dataset = Dataset(data)
    print(f"{len(dataset)} frames, {dataset.splits}, speech features of width {dataset.features.shape[2]}")
    found = fit(data, avatar, config(quick=quick), quiet=True)
    print(f"{found['seconds']:.0f} s on {found['device']}: {avatar}")
    for stage, figures in found["figures"].items():
        print(f"  {stage}: {', '.join(f'{name} {value:.3g}' for name, value in figures.items())}")
    return avatar


if __name__ == "__main__":
    main(Path(sys.argv[1]), quick="--quick" in sys.argv)
