"""Terms that every room uses: sides of the head, the six diagnosis codes, the sets of a split, scanner manufacturers."""
import re
from dataclasses import dataclass
from enum import StrEnum


class Side(StrEnum):
    """A side of the patient, never of the image."""

    LEFT = "left"
    RIGHT = "right"

    @property
    def sign(self) -> int:
        """Sign of x on this side in patient coordinates (LPS: +x is left)."""
        return 1 if self is Side.LEFT else -1

    @property
    def other(self) -> "Side":
        """The opposite side."""
        return Side.RIGHT if self is Side.LEFT else Side.LEFT


SIDES = (Side.LEFT, Side.RIGHT)
"""Both sides in the order of axis E of a batch."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """A diagnosis code with its names."""

    code: int
    """Code in the label sheet, 1 to 6."""

    key: str
    """Short name for columns and files."""

    english: str
    """Name in English."""

    chinese: str
    """Name in Chinese."""

    @property
    def class_id(self) -> int:
        """Index of the class in `six_class`, 0 to 5."""
        return self.code - 1


DIAGNOSES = {
    d.code: d
    for d in (
        Diagnosis(code=1, key="csom", english="chronic suppurative otitis media", chinese="慢性化脓性中耳炎"),
        Diagnosis(code=2, key="cholesteatoma", english="middle-ear cholesteatoma", chinese="中耳胆脂瘤"),
        Diagnosis(code=3, key="ome", english="otitis media with effusion", chinese="分泌性中耳炎"),
        Diagnosis(code=4, key="cholesterol_granuloma", english="cholesterol granuloma", chinese="胆固醇肉芽肿"),
        Diagnosis(code=5, key="normal", english="normal", chinese="正常"),
        Diagnosis(code=6, key="other", english="other", chinese="其他"),
    )
}
AIR = -1000
"""HU of air, and of every voxel without data."""
NORMAL = 5
"""Code of a normal ear."""
UNLABELLED = 0
"""Code of an ear without a label, wherever codes are stored as integers."""

SETS = ("train", "tune", "val", "test")
"""The sets of a split."""
WHOLE_MANIFEST = "manifest"
"""Name of a further set: every ear of a manifest, whatever its split; for patients of another hospital, for example."""

VENDORS = {
    "Siemens": ("siemens",), "GE": ("ge", "general electric"), "UIH": ("uih", "united imaging"), "Philips": ("philips",),
    "Canon": ("canon", "toshiba"), "Neusoft": ("neusoft",), "Hitachi": ("hitachi",),
}
"""Words that identify a scanner manufacturer, in any spelling. Canon took over Toshiba's CT scanners in 2018."""


def vendor(manufacturer: str) -> str:
    """The standard name of a scanner manufacturer; an unknown manufacturer keeps the text of the header."""
    words = re.sub(r"[^a-z0-9]+", " ", f" {manufacturer.lower()} ")
    return next((name for name, known in VENDORS.items() if any(f" {word} " in words for word in known)), manufacturer.strip())
