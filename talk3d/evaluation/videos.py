"""What is measured of a rendered video beyond its pixels: mouth, eyes, how its frames are distributed."""

from __future__ import annotations

from talk3d.evaluation.faces import FaceReader
from talk3d.evaluation.networks import Fid, Inception
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
    "Sync (LSE-C, LSE-D)": "needs the weights of SyncNet v2, which a later release reads; the correlation of the "
    "mouth's opening is given beside",
    "IDSIM": "needs the weights of CurricularFace IR-101 and MTCNN, which a later release reads",
}
_NO_FID = "needs the weights of FID's Inception, pt_inception-2015-12-05-6726825d.pth: --inception FILE"
# of a camera that the clip does not have; pixels have nothing to be compared with
_TURNED = ("faces", "mouth_correlation", "mouth_lag")
_PUBLISHED_TURNED = ("Sync (LSE-C, LSE-D)", "IDSIM")


class Video:
    """A rendered video beside the true one.

    Args:
        truth: The true video.
        reader: Follows the face; None if there is no tracker.
        inception: Makes FID's features, if its weights are there.

    Attributes:
        curves: Its mouth and eyes.
    """

    def __init__(self, truth: Truth, reader: FaceReader | None, inception: Inception | None) -> None:
        self._truth, self._reader, self._inception = truth, reader, inception
        self._fid = None if inception is None else Fid()
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

    def measured(self, floor: FaceCurves, blind: str | None) -> list[Measured]:
        """What was measured from the clip's own cameras.

        Args:
            floor: Of the mean training frame.
            blind: Why there is no tracker, if there is none.
        """
        return [*self._distribution(), *compare_faces(self.curves, self._truth.curves, floor, self._truth.count, blind)]

    def measured_turned(self, blind: str | None) -> list[Measured]:
        """What was measured from a camera of which there are no true frames."""
        faces = compare_faces(self.curves, self._truth.curves, None, self._truth.count, blind)
        kept = [found for found in faces if found.metric in _TURNED]
        person = Measured("person", 100 * self._opaque / self._truth.count, self._truth.count)
        absent = [Measured(name, None, 0, reason=ABSENT[name]) for name in _PUBLISHED_TURNED]
        return [*self._distribution(), *kept, person, *absent]

    def _distribution(self) -> list[Measured]:
        if self._fid is None:
            return [Measured("fid", None, 0, reason=_NO_FID)]
        value, reason = attempt(self._fid.compute)
        return [Measured("fid", value, self._truth.count, reason=reason)]
