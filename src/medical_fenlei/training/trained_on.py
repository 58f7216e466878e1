"""What a network was trained on, in numbers that name nobody: beyond them its answers are guesses."""
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

MARGIN = 0.1
"""So far beyond the ends of what was seen, as a share of each end, a number still counts as seen."""

RANGES = ("slice_increment_mm", "slice_thickness_mm", "pixel_spacing_mm", "age_years")
"""Columns of the manifest of which the smallest and the largest value are kept."""


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """Of the ears of a training set. Kept in every checkpoint."""

    ears: int
    exams: int
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest, by column; without those that no ear has."""

    kernels: dict[str, dict[str, int]] = field(default_factory=dict)
    """Ears by maker (`vocabulary.vendor`) and kernel, as the manifest spells them."""

    codes: dict[str, int] = field(default_factory=dict)
    """Ears by code."""

    @classmethod
    def of(cls, ears: pd.DataFrame) -> "TrainedOn":
        """ears: rows of the manifest; columns that it lacks are left out."""
        ranges = {}
        for name in RANGES:
            known = pd.to_numeric(ears[name]).dropna() if name in ears else pd.Series(dtype=float)
            if len(known):
                ranges[name] = (round(float(known.min()), 4), round(float(known.max()), 4))
        kernels: dict[str, dict[str, int]] = {}
        if {"manufacturer", "kernel"} <= set(ears):
            for (maker, kernel), own in ears.groupby(["manufacturer", "kernel"], sort=True):
                kernels.setdefault(str(maker), {})[str(kernel)] = len(own)
        codes = Counter(ears.label_code.tolist())
        return cls(ears=len(ears), exams=int(ears.exam_id.nunique()), ranges=ranges, kernels=kernels,
                   codes={str(code): codes[code] for code in sorted(codes)})

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "TrainedOn":
        """The inverse of `plain`."""
        ranges = {name: (float(low), float(high)) for name, (low, high) in plain["ranges"].items()}
        return cls(**{**plain, "ranges": ranges})

    def plain(self) -> dict[str, Any]:
        """Numbers, texts, and lists and dictionaries of them."""
        return {**asdict(self), "ranges": {name: list(ends) for name, ends in self.ranges.items()}}

    def outside(self, name: str, value: float) -> bool:
        """Whether a number lies farther than MARGIN beyond what was seen; NaN, and what nobody knows of the ears, does not."""
        if name not in self.ranges or math.isnan(value):
            return False
        low, high = self.ranges[name]
        return not low * (1 - MARGIN) <= value <= high * (1 + MARGIN)
