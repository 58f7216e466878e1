"""An explained ear: which ear it is, where its voxels lie in the patient, and its rows of a table."""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from medical_fenlei.explanations.maps import Explanation, Map
from medical_fenlei.spatial import Affine
from medical_fenlei.tables import SourceImage
from medical_fenlei.trained.calibration import TaskCalibration
from medical_fenlei.vocabulary import Side


@dataclass(frozen=True, kw_only=True)
class ExplainedEar:
    """The explanation of one ear for one task, with what identifies the ear."""

    exam_id: str
    side: Side
    label_code: int
    """Code of the diagnosis, 0 for an ear without a label."""

    affine: Affine
    """Voxel index (k, row, column) of the volume to LPS mm."""

    images: tuple[SourceImage, ...]
    """The image of the scan nearest to each slice."""

    explanation: Explanation

    def calibrated(self, fitted: TaskCalibration) -> "ExplainedEar":
        """Return the same ear with the probabilities after the temperature of the task."""
        return replace(self, explanation=self.explanation.calibrated(fitted))

    def z_mm(self, k: int) -> float:
        """Return the z of the middle of a slice, mm."""
        return float(self.affine.slice_centre(k, self.explanation.grey.shape)[2])

    def position_mm(self, voxel: Sequence[float]) -> list[float]:
        """Return the position of a voxel (k, row, column), LPS mm, rounded to 0.01 mm."""
        position: list[float] = self.affine.apply(voxel).round(2).tolist()
        return position

    def peak_mm(self, one: Map) -> list[float] | None:
        """Return the position of a map's hottest voxel, LPS mm; None if nothing speaks for the class."""
        return None if one.peak is None else self.position_mm(one.peak)

    def table_rows(self, picture: str) -> list[dict[str, Any]]:
        """Return the ear's rows of `tables.EXPLANATIONS`; picture: path of its montage."""
        found, rows = self.explanation, []
        for one in found.maps:
            peak: Sequence[int | None] = one.peak or [None] * 3
            position: Sequence[float | None] = self.peak_mm(one) or [None] * 3
            for rank, k in enumerate(map(int, found.slices), start=1):
                rows.append({
                    "exam_id": self.exam_id, "side": str(self.side), "label_code": self.label_code,
                    "class_name": found.class_name, "probability": found.probability, "method": one.method,
                    "layer": one.layer, "rank": rank, "slice": k, "z_mm": round(self.z_mm(k), 2),
                    "image": self.images[k].number, "image_z_mm": self.images[k].z_mm,
                    "weight": float(found.weights[k]), "ranked_by": found.ranked_by,
                    **dict(zip(("peak_k", "peak_row", "peak_column"), peak, strict=True)),
                    **dict(zip(("peak_x_mm", "peak_y_mm", "peak_z_mm"), position, strict=True)), "picture": picture,
                })
        return rows
