"""LSE-C and LSE-D: how far rendered lips are from the sound, by SyncNet v2 (Chung and Zisserman 2016)."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad

from talk3d.audio.spectra import cepstra
from talk3d.networks import SyncNet
from talk3d.networks.syncnet import COLUMNS, FRAMES, SIDE

__all__ = ["LipSync", "SyncScores", "crop_face", "sync_scores"]

_REACH = 15  # frames by which the sound is shifted, either way
_MEDIAN = 6  # frames before and after, over which boxes are smoothed
_GREY = 110  # what is beyond a picture
_SAMPLES = 640  # of a frame
_BATCH = 20
_FEWEST = 25  # windows of which a mean says something: a second


class SyncScores(NamedTuple):
    """What SyncNet says of a video.

    Attributes:
        confidence: LSE-C, median less least mean distance over the shifts: the larger, the surer.
        distance: LSE-D, the least mean distance.
        offset: Frames by which the sound has to be late for it.
        windows: Of how many windows of five frames.
    """

    confidence: float
    distance: float
    offset: int
    windows: int


def sync_scores(
    sound: Float[Tensor, "window feature"], lips: Float[Tensor, "seen feature"], at: list[int]
) -> SyncScores:
    """Compare features of lips with those of the sound at 31 shifts.

    Before and after the sound its features are zero, and take part, as published.

    Args:
        sound: Of the windows that begin at each frame.
        lips: Of those windows that were seen.
        at: Where each of these begins.

    Raises:
        ValueError: If there are fewer than 25, a sentence for the report.
    """
    kept = [k for k, place in enumerate(at) if place < len(sound)]
    if len(kept) < _FEWEST:
        raise ValueError(f"it needs {_FEWEST} windows of five frames in a row that show a face, and has {len(kept)}")
    padded = pad(sound, (0, 0, _REACH, _REACH))
    shifted = padded.unfold(0, 2 * _REACH + 1, 1).mT[[at[k] for k in kept]]  # window, shift, feature
    distances = (lips[kept][:, None] - shifted + 1e-6).norm(dim=2).mean(0)
    least, median = distances.min(), distances.median()
    return SyncScores((median - least).item(), least.item(), _REACH - int(distances.argmin()), len(kept))


def crop_face(
    picture: UInt8[Tensor, "height width 3"], middle: tuple[float, float], half: float
) -> UInt8[Tensor, "3 224 224"]:
    """Cut a face out as SyncNet wants it: mouth and chin in the middle, grey beyond the picture; blue, green, red.

    Args:
        picture: Red, green and blue.
        middle: Of the face's box, x and y in pixels.
        half: Half of the box's longer side.
    """
    left, top = int(middle[0] - 1.4 * half), int(middle[1] - half)
    side = max(int(2.8 * half), 1)
    height, width = picture.shape[:2]
    margins = (max(-left, 0), max(left + side - width, 0), max(-top, 0), max(top + side - height, 0))
    padded = pad(picture.permute(2, 0, 1), margins, value=_GREY)
    row, column = top + margins[2], left + margins[0]
    cut = padded[:, row : row + side, column : column + side].float()
    return interpolate(cut[None], (SIDE, SIDE), mode="bilinear")[0].round().clamp(0, 255).byte().flip(0)


class LipSync:
    """One video, frame by frame; of each window a few numbers are kept, and pictures of the last frames alone.

    Args:
        network: SyncNet.
        device: Where it is.
    """

    def __init__(self, network: SyncNet, device: torch.device) -> None:
        self._network, self._device = network, device
        self._boxes: list[NDArray[np.float64]] = []  # of the frames in a row that there are: middle and half side
        self._waiting: deque[tuple[int, Tensor]] = deque()
        self._cut: deque[Tensor] = deque(maxlen=FRAMES)
        self._windows: list[Tensor] = []
        self._at: list[int] = []
        self._features: list[Tensor] = []
        self._last = -2

    def add(self, position: int, picture: UInt8[Tensor, "height width 3"], box: NDArray[np.float64] | None) -> None:
        """Add the next frame.

        Args:
            position: Which it is; where one is left out, a new row begins.
            picture: The frame.
            box: Left, top, right and bottom of its face in pixels; None where there is none.
        """
        if position != self._last + 1:
            self._end_row()
        self._last = position
        if box is None:
            self._boxes.append(np.full(3, np.nan))
        else:
            left, top, right, bottom = box
            self._boxes.append(np.array([(left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top) / 2]))
        self._waiting.append((position, picture))
        if len(self._waiting) > _MEDIAN:
            self._look()

    def scores(self, speech: Float[NDArray[np.float32], " sample"]) -> SyncScores:
        """Compare with the sound, which begins with the frame at position 0; 16 kHz, -1 to 1.

        Raises:
            ValueError: If there is too little to compare, a sentence for the report.
        """
        self._end_row()
        self._flush()
        mel = torch.from_numpy(cepstra(speech))
        # as published; the last windows would reach beyond the end
        count = min(self._last + 1, len(speech) // _SAMPLES) - FRAMES
        windows = [mel[:, 4 * t : 4 * t + COLUMNS] for t in range(max(count, 0))]
        windows = [window for window in windows if window.shape[1] == COLUMNS]
        if not windows or not self._features:
            raise ValueError("there are no five frames in a row that show a face while there is sound")
        with torch.inference_mode():
            sound = torch.cat(
                [
                    self._network.sound(torch.stack(windows[k : k + _BATCH])[:, None].to(self._device)).cpu()
                    for k in range(0, len(windows), _BATCH)
                ]
            )
        return sync_scores(sound, torch.cat(self._features), self._at)

    def _look(self) -> None:
        """Cut the face out of the oldest frame that waits, by the median of the boxes around it."""
        _, picture = self._waiting.popleft()
        here = len(self._boxes) - len(self._waiting) - 1
        around = np.stack(self._boxes[max(here - _MEDIAN, 0) : here + _MEDIAN + 1])
        around = around[~np.isnan(around[:, 0])]
        if not len(around):
            self._cut.clear()
            return
        x, y, half = np.median(around, 0).tolist()
        self._cut.append(crop_face(picture, (x, y), half))
        if len(self._cut) == FRAMES:
            self._windows.append(torch.stack(list(self._cut), 1))
            self._at.append(self._last - len(self._waiting) - FRAMES + 1)
            if len(self._windows) == _BATCH:
                self._flush()

    def _end_row(self) -> None:
        while self._waiting:
            self._look()
        self._boxes.clear()
        self._cut.clear()

    def _flush(self) -> None:
        if self._windows:
            with torch.inference_mode():
                pictures = torch.stack(self._windows).to(self._device).float()
                self._features.append(self._network.lips(pictures).cpu())
            self._windows.clear()
