"""The rules for choosing a series: their defaults, and how a TOML file changes them."""
import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from medical_fenlei.errors import UserError
from medical_fenlei.ingest.scan import SeriesScan
from medical_fenlei.vocabulary import vendor

Criterion = Literal["bone_kernel", "both_ears", "z_coverage", "original", "slice_spacing", "slice_count"]

OTHER = "other"
BONE_KERNELS = {
    "Siemens": r"^(?!bl|bv|hv)[a-z]{0,2}[6-9]\d", "GE": "bone|edge", "UIH": "sharp|bone", "Philips": r"^y[a-e]|^[de]$|bone",
    "Canon": r"^fc(30|31|8\d)", OTHER: "bone|sharp|edge",
}
"""Patterns of bone kernels by manufacturer (`vocabulary.vendor`). Siemens: from 60 up (U75u, Ur73u, H70h, J70h), without the
kernels for lungs and vessels."""

RENAMED = {
    "max_step_mm": "max_slice_spacing_mm", "min_height_mm": "min_z_coverage_mm", "high_mm": "full_z_coverage_mm",
    "both_ears_mm": "both_ears_x_coverage_mm", "apart_mm": "min_pair_distance_mm",
    "high": "z_coverage", "thin": "slice_spacing", "many": "slice_count",
}
"""Keys and criteria of earlier versions, with their present names."""

_SEARCHED = ("kernel", "image_type", "model", "manufacturer", "relpath")


@dataclass(frozen=True, kw_only=True)
class SeriesRules:
    """The limits within which a series can be used, and the criteria that choose among several."""

    max_slice_spacing_mm: float = 2.0
    """Largest slice spacing in mm; a larger one does not resolve the middle ear."""

    min_slices: int = 8
    """Smallest number of slices; fewer are no scan of the ears."""

    min_z_coverage_mm: float = 6.0
    """Smallest z-coverage in mm; less shows hardly half of a tympanic cavity, which extends over 15 mm."""

    full_z_coverage_mm: float = 30.0
    """z-coverage in mm that shows cavity, antrum and canal of both ears, whatever the position of the head."""

    both_ears_x_coverage_mm: float = 120.0
    """Width of the field of view in mm that shows both ears; the outer ends of the bony canals are some 118 mm apart."""

    min_pair_distance_mm: float = 40.0
    """Smallest distance along x in mm between the centres of two narrower fields of view that show one ear each; the centres of
    the tympanic cavities are some 84 mm apart."""

    prefer: tuple[Criterion, ...] = get_args(Criterion)
    """Criteria in the order in which they decide: a bone kernel; both ears in one series; `full_z_coverage_mm` or more;
    original, not derived; smaller slice spacing (to 0.05 mm); more slices."""

    bone_kernels: dict[str, str] = field(default_factory=lambda: dict(BONE_KERNELS))
    """Regular expressions for bone kernels, case ignored, by manufacturer as the manifest spells it; `other` is for those that
    are not named."""

    refuse: dict[str, str] = field(default_factory=dict)
    """Regular expressions for further series to refuse, by the attribute that is searched (kernel, image_type, model,
    manufacturer or relpath)."""

    def __post_init__(self) -> None:
        for name in (item.name for item in fields(self) if item.name.endswith("_mm") or item.name == "min_slices"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name}: got {value!r}, expected a number above 0")
        unknown = [name for name in self.prefer if name not in get_args(Criterion)]
        if unknown or len(set(self.prefer)) < len(self.prefer):
            raise ValueError(f"prefer: got {list(self.prefer)}, expected each at most once of {', '.join(get_args(Criterion))}")
        for name in self.refuse:
            if name not in _SEARCHED:
                raise ValueError(f"refuse: got {name!r}, expected some of {', '.join(_SEARCHED)}")
        for pattern in (*self.bone_kernels.values(), *self.refuse.values()):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"got {pattern!r}, which is no regular expression ({error})") from None

    def is_bone(self, facts: SeriesScan) -> bool:
        """Return whether a series has a bone kernel."""
        return self.is_bone_kernel(facts.manufacturer, facts.kernel)

    def is_bone_kernel(self, manufacturer: str, kernel: str) -> bool:
        """Return whether this kernel of a manufacturer is a bone kernel."""
        pattern = self.bone_kernels.get(vendor(manufacturer), self.bone_kernels.get(OTHER, "(?!)"))
        return bool(re.search(pattern, kernel, re.IGNORECASE))

    def refused_by(self, facts: SeriesScan) -> str:
        """Return the detail of the first pattern in `refuse` that a series matches, or "" if it matches none."""
        for name, pattern in self.refuse.items():
            if re.search(pattern, str(getattr(facts, name))):
                return f"{name}: got {getattr(facts, name)!r}, refused: {pattern}"
        return ""


def read_rules(path: Path | None) -> SeriesRules:
    """Read rules from a TOML file, which replaces some of the defaults; None returns the defaults. Raises UserError."""
    if path is None:
        return SeriesRules()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--series-rules {path}: cannot be read as TOML ({error})") from None
    try:
        _refuse_old_names(values)
        if unknown := set(values) - {item.name for item in fields(SeriesRules)}:
            known = ", ".join(item.name for item in fields(SeriesRules))
            raise ValueError(f"got {sorted(unknown)[0]!r}, expected some of {known}")
        if "prefer" in values:
            values["prefer"] = tuple(values["prefer"])
        if "bone_kernels" in values:
            values["bone_kernels"] = {**BONE_KERNELS, **values["bone_kernels"]}
        return SeriesRules(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"--series-rules {path}: {error}") from None


def _refuse_old_names(values: dict[str, Any]) -> None:
    """Raise ValueError, with the present name, for a key or criterion of an earlier version."""
    criteria = values.get("prefer", ())
    for old, new in RENAMED.items():
        if old in values or (isinstance(criteria, list) and old in criteria):
            raise ValueError(f"{old!r} is now called {new!r}: rename it")
