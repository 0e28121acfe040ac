"""An avatar speaks, from Python: frames from a sound and a camera path, then a video with the sound.

    python examples/render.py avatars/ada talking.mp4                # 10 s of bundled speech
    python examples/render.py avatars/ada talking.mp4 speech.wav

``talk3d render`` does the same, in chunks that survive a crash.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import soundfile
from rich.progress import track

from talk3d import Avatar, cameras
from talk3d.data.synthetic import speech
from talk3d.rendering.video import SegmentWriter, join


def main(folder: Path, out: Path, sound: Path | None = None, *, seconds: float = 10.0) -> None:
    """Render an avatar with a camera that circles it; without a sound it says sentences that come with talk3d."""
    avatar = Avatar.load(folder).bake()  # the identity is worked out once, frames are cheap after that
    scene = avatar.config
    path = cameras.orbit(yaw=20, pitch=8, frames=100, focal=scene.focal, radius=scene.radius, pivot=scene.pivot)
    with tempfile.TemporaryDirectory() as scratch:
        if sound is None:
            said = speech.load("held_out").fit(seconds)
            sound = Path(scratch, "speech.wav")
            soundfile.write(sound, said.samples, speech.RATE)
        silent, count = Path(scratch, "silent.mp4"), 0
        with SegmentWriter(silent, avatar.side, avatar.side) as video:
            for picture in track(avatar.render(sound, path), "rendering"):  # uint8 [H, W, 3]
                video.write(picture.numpy())
                count += 1
        join([silent], sound, count, out)
    print(f"{out}: {count} frames of {avatar.side} x {avatar.side}, {count / 25:.2f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(Path, sys.argv[3:]))
