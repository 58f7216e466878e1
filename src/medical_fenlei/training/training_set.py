"""A training set in figures that identify no patient. Predictions for ears beyond its range are extrapolations."""
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

MARGIN = 0.1
"""How far beyond its limits a range still counts as covered, as a share of each limit."""

RANGES = ("slice_increment_mm", "slice_thickness_mm", "pixel_spacing_mm", "age_years")
"""Columns of the manifest whose range is kept."""


@dataclass(frozen=True, kw_only=True)
class TrainingSetSummary:
    """Counts and ranges of the ears of a training set. Every checkpoint holds one."""

    ears: int
    """Number of ears."""

    exams: int
    """Number of exams that they belong to."""

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest value by column; columns without a value are missing."""

    kernels: dict[str, dict[str, int]] = field(default_factory=dict)
    """Ears by manufacturer (`vocabulary.vendor`) and kernel, as spelt in the manifest."""

    codes: dict[str, int] = field(default_factory=dict)
    """Ears by code."""

    @classmethod
    def from_ears(cls, ears: pd.DataFrame) -> "TrainingSetSummary":
        """Summarise manifest rows; missing columns are left out."""
        ranges = {}
        for name in RANGES:
            known = pd.to_numeric(ears[name]).dropna() if name in ears else pd.Series(dtype=float)
            if len(known):
                ranges[name] = (round(float(known.min()), 4), round(float(known.max()), 4))
        kernels: dict[str, dict[str, int]] = {}
        if {"manufacturer", "kernel"} <= set(ears):
            for (manufacturer, kernel), own in ears.groupby(["manufacturer", "kernel"], sort=True):
                kernels.setdefault(str(manufacturer), {})[str(kernel)] = len(own)
        codes = Counter(ears.label_code.tolist())
        return cls(ears=len(ears), exams=int(ears.exam_id.nunique()), ranges=ranges, kernels=kernels,
                   codes={str(code): codes[code] for code in sorted(codes)})

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values: numbers, strings, lists and dictionaries."""
        return {**asdict(self), "ranges": {name: list(ends) for name, ends in self.ranges.items()}}

    def is_outside(self, name: str, value: float) -> bool:
        """Whether a value lies beyond the range of a column by more than MARGIN; False for NaN or an unknown range."""
        if name not in self.ranges or math.isnan(value):
            return False
        low, high = self.ranges[name]
        return not low * (1 - MARGIN) <= value <= high * (1 + MARGIN)
