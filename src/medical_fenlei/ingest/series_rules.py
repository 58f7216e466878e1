"""The rules for choosing a series: their defaults, and how a TOML file changes them."""
import json
import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from medical_fenlei.errors import UserError
from medical_fenlei.ingest.kernels import KERNELS, first_kernel, is_smooth, matches_kernel
from medical_fenlei.ingest.scan import SeriesScan
from medical_fenlei.near_names import near_paths
from medical_fenlei.vocabulary import vendor

Criterion = Literal["bone_kernel", "both_ears", "z_coverage", "original", "slice_spacing", "slice_count"]

BONE_KERNELS = {maker: table.bone for maker, table in KERNELS.items()}
"""Patterns of bone kernels by manufacturer (`vocabulary.vendor`)."""

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
    """Regular expressions for bone kernels, case ignored, by manufacturer as the manifest spells it. All are tried for a
    manufacturer that has none, or is unknown, unless a table has the kernel as another one."""

    kernel_is_bone: dict[str, bool] = field(default_factory=dict)
    """Kernels by name, case ignored, and whether each is a bone kernel, whatever the manufacturer and the patterns."""

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
        for kernel, is_bone in self.kernel_is_bone.items():
            if not isinstance(is_bone, bool):
                raise ValueError(f"kernel_is_bone: got {is_bone!r} for {kernel!r}, expected true or false")
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
        named = self._named(kernel)
        if named is not None:
            return named
        maker = vendor(manufacturer)
        if maker in self.bone_kernels:
            return matches_kernel(self.bone_kernels[maker], kernel)
        return any(matches_kernel(pattern, kernel) for pattern in self.bone_kernels.values()) and not is_smooth(maker, kernel)

    def unknown_kernel(self, facts: SeriesScan) -> str:
        """Return what to do about a kernel that is in no table, or "" for one that is, or is not stated."""
        kernel, maker = facts.kernel, vendor(facts.manufacturer)
        if not first_kernel(kernel) or self._named(kernel) is not None or self.is_bone(facts) or is_smooth(maker, kernel):
            return ""
        line = f"kernel_is_bone = {{{json.dumps(first_kernel(kernel), ensure_ascii=False)} = true}}"
        return (f"kernel {kernel!r} of {maker or 'an unknown manufacturer'} is in no table and counts as no bone kernel; if it "
                f"is one, put this line into --series-rules (else with false): {line}")

    def _named(self, kernel: str) -> bool | None:
        names = {first_kernel(kernel).casefold(), kernel.casefold()}
        return next((is_bone for name, is_bone in self.kernel_is_bone.items() if name.casefold() in names), None)

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
    except FileNotFoundError:
        raise UserError(f"--series-rules {path}: no such file{near_paths('file', path)}") from None
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
