"""The labelled ears of a manifest, divided into groups by set or by date."""
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.vocabulary import UNLABELLED

THICKNESS_BOUNDS_MM = (0.5, 0.7, 1.0)
"""Bounds between the bands of slice thickness in mm."""


@dataclass(frozen=True)
class Grouping:
    """The labelled ears, divided in one way."""

    name: str
    groups: dict[str, pd.DataFrame]
    """Ears (`labelled_ears`) by group; no exam is in two groups."""

    nested: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Smaller training sets, which lie inside a group."""


def labelled_ears(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the ears with a label, and their band of slice thickness as `thickness`.

    Columns that a manifest of an earlier version lacks are added as unknown.
    """
    missing = [name for name in tables.SUBGROUP_FACTS if name not in manifest]
    ears = tables.MANIFEST.frame(manifest.assign(**{name: "" if tables.SUBGROUP_FACTS[name] == "text" else np.nan
                                                    for name in missing}))
    ears = ears[ears.label_code != UNLABELLED].reset_index(drop=True)
    bounds = THICKNESS_BOUNDS_MM
    names = [f"below {bounds[0]} mm", *(f"{low} to {high} mm" for low, high in itertools.pairwise(bounds)),
             f"from {bounds[-1]} mm"]
    band = pd.cut(ears.slice_thickness_mm, (-np.inf, *bounds, np.inf), right=False, labels=names).astype("object")
    return ears.assign(thickness=band.where(band.notna(), "").astype("str"))


def group_by_date(ears: pd.DataFrame) -> Grouping:
    """Group ears by whether the date in the label sheet equals that of the exam folder."""
    return Grouping("date", {"same date": ears[ears.date_match], "another date": ears[~ears.date_match]})


def group_by_set(ears: pd.DataFrame, splits: Sequence[tables.Split], name: str) -> Grouping:
    """Group ears by the sets of a splits folder's largest amount, with the smaller training sets nested.

    splits: amounts of the folder, ascending; name: name of the grouping.
    """
    def ears_in(exams: pd.DataFrame) -> pd.DataFrame:
        return ears[ears.exam_id.isin(exams.exam_id)]

    nested = {f"train, {split.folder.name.removesuffix('pct')} %": ears_in(split.sets["train"]) for split in splits[:-1]}
    sets = {set_name: ears_in(exams) for set_name, exams in splits[-1].sets.items() if len(exams)}
    return Grouping(name, sets, nested)


def first_exam_per_patient(ears: pd.DataFrame) -> pd.DataFrame:
    """Return the first row of each patient's first exam."""
    return ears.sort_values(["date", "exam_id"], kind="stable").drop_duplicates("patient_key")
