"""What is measured of a rendered video beyond its pixels: mouth, eyes, how its frames are distributed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from talk3d.evaluation.faces import Face, FaceReader
from talk3d.evaluation.lipsync import LipSync
from talk3d.evaluation.networks import Fid, Networks
from talk3d.evaluation.playback import Rendered
from talk3d.evaluation.report import Measured
from talk3d.evaluation.scores import FaceCurves, attempt, compare_faces
from talk3d.evaluation.truth import TrueFrames, Truth, unit

__all__ = ["ABSENT", "Video"]

# published metrics that this release cannot measure, and why
ABSENT = {
    "LMD": "needs the 68-point network of face-alignment, a download; LMD of MediaPipe's mesh is in its place, "
    "and not the same",
    "AUE": "needs the action units of OpenFace",
}
_SYNC, _IDSIM = "Sync (LSE-C, LSE-D)", "IDSIM"
_NO_SYNC = "needs the weights of SyncNet v2: --syncnet FILE; the correlation of the mouth's opening is given beside"
_NO_IDSIM = "needs the weights of CurricularFace IR-101: --curricularface FILE"
_NO_FID = "needs the weights of FID's Inception, pt_inception-2015-12-05-6726825d.pth: --inception FILE"
# of a camera that the clip does not have; pixels have nothing to be compared with
_TURNED = ("faces", "mouth_correlation", "mouth_lag")


class Video:
    """A rendered video beside the true one.

    Args:
        truth: The true video.
        reader: Follows the face; None if there is no tracker.
        networks: Those whose weights are there.

    Attributes:
        curves: Its mouth and eyes.
    """

    def __init__(self, truth: Truth, reader: FaceReader | None, networks: Networks) -> None:
        self._truth, self._reader, self._inception = truth, reader, networks.inception
        self._lipsync = None if networks.syncnet is None else LipSync(networks.syncnet, networks.device)
        self._likeness = networks.likeness
        self._alike: list[float] = []
        self._fid = None if networks.inception is None else Fid()
        self._opaque = 0.0
        self.curves = FaceCurves(truth.length, truth.scale)

    def add(self, true: TrueFrames, rendered: Rendered) -> None:
        """Add frames, of which the batch may be filled up with more."""
        count = len(true.positions)
        pictures = rendered.pictures[:count]
        self._opaque += float(rendered.weight[:count].double().mean((1, 2)).sum())
        if self._inception is not None and self._fid is not None and true.features is not None:
            self._fid.add(self._inception(unit(pictures)), true.features)
        if self._reader is not None:
            faces = [self._reader(picture) for picture in pictures.cpu().numpy()]
            self.curves.add(true.positions, faces, true.faces)
            self._judge(true, pictures.cpu(), faces)

    def measured(self, floor: FaceCurves, blind: str | None) -> list[Measured]:
        """What was measured from the clip's own cameras.

        Args:
            floor: Of the mean training frame.
            blind: Why there is no tracker, if there is none.
        """
        faces = compare_faces(self.curves, self._truth.curves, floor, self._truth.count, blind)
        return [*self._distribution(), *faces, *self._judged(blind)]

    def measured_turned(self, blind: str | None) -> list[Measured]:
        """What was measured from a camera of which there are no true frames."""
        faces = compare_faces(self.curves, self._truth.curves, None, self._truth.count, blind)
        kept = [found for found in faces if found.metric in _TURNED]
        person = Measured("person", 100 * self._opaque / self._truth.count, self._truth.count)
        return [*self._distribution(), *kept, person, *self._judged(blind)]

    def _judge(self, true: TrueFrames, pictures: Tensor, faces: Sequence[Face | None]) -> None:
        """Show frames to SyncNet and CurricularFace."""
        if self._lipsync is not None:
            for position, picture, face in zip(true.positions, pictures, faces, strict=True):
                self._lipsync.add(position, picture, None if face is None else face.box)
        if self._likeness is not None and true.identities is not None:
            ours = self._likeness(list(pictures), [None if face is None else face.five for face in faces])
            pairs = zip(ours, true.identities, strict=True)
            self._alike += [float(found @ one) for found, one in pairs if found is not None and one is not None]

    def _judged(self, blind: str | None) -> list[Measured]:
        """What these say of the video."""
        return [*self._synchronised(blind), self._identity(blind)]

    def _synchronised(self, blind: str | None) -> list[Measured]:
        if self._lipsync is None or blind is not None:
            return [Measured(_SYNC, None, 0, reason=blind if self._lipsync else _NO_SYNC)]
        try:
            scores = self._lipsync.scores(self._truth.speech())
        except ValueError as error:
            return [Measured(_SYNC, None, 0, reason=str(error))]
        return [
            Measured("lse_c", scores.confidence, scores.windows),
            Measured("lse_d", scores.distance, scores.windows),
        ]

    def _identity(self, blind: str | None) -> Measured:
        if self._likeness is None or blind is not None:
            return Measured(_IDSIM, None, 0, reason=blind if self._likeness else _NO_IDSIM)
        if not self._alike:
            nowhere = "in no frame did our tracker find both our face and the true one"
            return Measured(_IDSIM, None, 0, reason=nowhere)
        return Measured("idsim", sum(self._alike) / len(self._alike), len(self._alike))

    def _distribution(self) -> list[Measured]:
        if self._fid is None:
            return [Measured("fid", None, 0, reason=_NO_FID)]
        value, reason = attempt(self._fid.compute)
        return [Measured("fid", value, self._truth.count, reason=reason)]
