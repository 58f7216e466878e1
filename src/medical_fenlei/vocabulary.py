"""The words every room uses: sides of the head, the six diagnosis codes, the makers of scanners."""
import re
from dataclasses import dataclass
from enum import StrEnum


class Side(StrEnum):
    """A side of the patient (never of the picture)."""

    LEFT = "left"
    RIGHT = "right"

    @property
    def sign(self) -> int:
        """Sign of x on this side in patient coordinates (LPS: +x is left)."""
        return 1 if self is Side.LEFT else -1

    @property
    def other(self) -> "Side":
        return Side.RIGHT if self is Side.LEFT else Side.LEFT


SIDES = (Side.LEFT, Side.RIGHT)
"""In the order in which a batch holds them (axis E)."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    code: int
    """As the label sheet writes it, 1 to 6."""

    key: str
    english: str
    chinese: str

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
NORMAL = 5
UNLABELLED = 0
"""Stands for "no label" wherever a code is stored as an integer."""

VENDORS = {
    "Siemens": ("siemens",), "GE": ("ge", "general electric"), "UIH": ("uih", "united imaging"), "Philips": ("philips",),
    "Canon": ("canon", "toshiba"), "Neusoft": ("neusoft",), "Hitachi": ("hitachi",),
}
"""Words by which a maker of scanners is known, however its name is spelt. Toshiba's CT has been Canon's since 2018."""


def vendor(manufacturer: str) -> str:
    """The maker's one name; of one that is not known, what the header says."""
    words = re.sub(r"[^a-z0-9]+", " ", f" {manufacturer.lower()} ")
    return next((name for name, known in VENDORS.items() if any(f" {word} " in words for word in known)), manufacturer.strip())
