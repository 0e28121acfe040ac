"""From tokens and cameras to pictures in memory: batches of one size, copied out while the next one is rendered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from talk3d.avatar import BakedAvatar
from talk3d.backdrop import signed
from talk3d.profiling import annotate
from talk3d.rendering.cameras import CameraPath

__all__ = ["Renderer"]


class Renderer:
    """Render ranges of frames.

    Batches are counted from the beginning of a range, and the last bits of a frame may depend on its batch: they are
    the same in all ranges that begin at multiples of ``batch`` frames from one another.

    Args:
        avatar: What is rendered.
        camera: Where the camera is.
        background: ``"keep"``, ``"transparent"``, ``"#rrggbb"``, or a picture.
        batch: Frames at a time; the last batch of a range is filled up.
        side: Of the pictures; by default the avatar's own.

    Raises:
        ValueError: If the background cannot be had: of an avatar whose volume holds its own, or a damaged picture.
    """

    def __init__(
        self,
        avatar: BakedAvatar,
        camera: CameraPath,
        *,
        background: str = "keep",
        batch: int = 1,
        side: int | None = None,
    ) -> None:
        self.avatar, self.camera, self.batch = avatar, camera, batch
        self.side = side or avatar.side
        self.transparent = background == "transparent"
        self.plate = None if background in ("keep", "transparent") else _plate(background, avatar.side)
        if background != "keep" and avatar.plate is None:
            raise ValueError(
                "this avatar's volume holds its background too, and nothing tells it from the person: "
                "only --background keep can be rendered"
            )

    def __call__(self, features: NDArray[np.float32], frames: range) -> Iterator[NDArray[np.uint8]]:
        """Render frames, each ``[H, W, 3]``, or ``[H, W, 4]`` with a transparent background.

        Args:
            features: Speech ``[N, 16, F]``, an array or a mapped file.
            frames: Which.
        """
        outbox = _Outbox(self.avatar.device)
        for start in range(frames.start, frames.stop, self.batch):
            wanted = min(self.batch, frames.stop - start)
            yield from outbox.exchange(self._pictures(features, range(start, start + self.batch))[:wanted])
        yield from outbox.empty()

    def _pictures(self, features: NDArray[np.float32], frames: range) -> Tensor:
        motion = self.avatar.moves(frames)
        made = self.avatar.speak(features, frames, self.camera(frames, motion))
        if self.transparent:
            pictures = self.avatar.cut_out(made)
        else:
            behind = self.avatar.behind(frames) if self.plate is None else self.plate
            pictures = self.avatar.compose(made, behind)
        return pictures if self.side == self.avatar.side else _resized(pictures, self.side)


class _Outbox:
    """Copy pictures to the host; on a GPU into pinned memory, while the next batch is rendered."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned: list[Tensor] = []
        self._sent: list[tuple[Tensor, torch.cuda.Event, int]] = []
        self._turn = 0

    def exchange(self, pictures: Tensor) -> Iterator[NDArray[np.uint8]]:
        """Send a batch, and give what was sent before."""
        if self._device.type != "cuda":
            yield from pictures.numpy()
            return
        before, self._sent = self._sent, []
        while len(self._pinned) < 2:
            self._pinned.append(torch.empty(pictures.shape, dtype=pictures.dtype, pin_memory=True))
        target = self._pinned[self._turn][: len(pictures)]
        self._turn = 1 - self._turn
        with annotate("io.d2h"), torch.cuda.device(self._device):  # whose current stream the event is recorded on
            target.copy_(pictures, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._sent.append((target, event, len(pictures)))
        yield from self._received(before)

    def empty(self) -> Iterator[NDArray[np.uint8]]:
        """Give what is still under way."""
        yield from self._received(self._sent)

    @staticmethod
    def _received(sent: list[tuple[Tensor, torch.cuda.Event, int]]) -> Iterator[NDArray[np.uint8]]:
        for pictures, event, count in sent:
            event.synchronize()
            # the buffer is written again two batches later, and the encoder may be behind
            yield from pictures[:count].numpy().copy()


def _plate(background: str, side: int) -> Tensor:
    """A colour or a picture as ``[1, 3, side, side]`` or ``[1, 3, 1, 1]``, -1 to 1."""
    if background.startswith("#"):
        digits = background[1:]
        if len(digits) != 6 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise ValueError(f"a colour is # and six hexadecimal digits, not {background!r}")
        rgb = torch.tensor(list(bytes.fromhex(digits)), dtype=torch.uint8)
        return signed(rgb[None, None])[None]
    if not Path(background).is_file():
        raise ValueError(
            f"{background!r} cannot be read as a picture: there is no such file; a background is keep, transparent, "
            "a colour #rrggbb or a picture"
        )
    try:
        picture = Image.open(Path(background)).convert("RGB")
    except OSError as error:
        raise ValueError(f"{background} cannot be read as a picture: {error}") from None
    width, height = picture.size
    edge = min(width, height)  # the middle of it, as much as fits
    left, top = (width - edge) // 2, (height - edge) // 2
    cut = picture.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.LANCZOS)
    return signed(torch.from_numpy(np.array(cut)))[None]


def _resized(pictures: Tensor, side: int) -> Tensor:
    planar = pictures.permute(0, 3, 1, 2).float()
    made = interpolate(planar, (side, side), mode="bicubic", antialias=True, align_corners=False)
    return made.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
