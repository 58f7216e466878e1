"""Splits: exams divided into train, tune, validation and test sets, with nested amounts of training data, or into folds.

A patient (or an exam) goes to one set whole. `stratified` keeps the classes proportional.
"""
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.ingest.split_spec import SplitSpec, percent
from medical_fenlei.ingest.stratified import StratifiedUnits
from medical_fenlei.vocabulary import SETS

Sets = dict[str, pd.DataFrame]
"""Rows of the index by set: train, tune, val, test."""


def make_splits(
    index: pd.DataFrame, patients: Mapping[str, str] | None, spec: SplitSpec, *, val_exams: Collection[str] = ()
) -> list[dict[int, Sets]]:
    """Return {percent: sets} for each fold, or for the single split if `spec.folds` is 0.

    index: `tables.INDEX` rows of labelled exams with a series; patients: patient by exam id, or None to divide by exam;
    val_exams: the exams of `spec.val_from`. The result depends on which exams share a patient, on the labels and on the seed;
    neither the order of the rows nor the values of patient keys matter. Raises UserError if there are too few units for the
    sets.
    """
    index = index.sort_values("exam_id", ignore_index=True)
    units = StratifiedUnits(index, patients, spec.min_per_class)
    rng = np.random.default_rng(spec.seed)
    everyone = np.arange(len(units.ears))
    fixed = units.owners_of(val_exams) if spec.val_from else None
    rest = everyone if fixed is None else np.setdiff1d(everyone, fixed)
    tuning, testing, validating = (int(share > 0) for share in (spec.tune_ratio, spec.test_ratio, spec.val_ratio))
    others = spec.folds or 1 + (validating if fixed is None else 0)          # sets beside test and tune
    if len(rest) < testing + others + tuning:
        what = "exams" if patients is None else "patients"
        raise UserError(f"--index-csv: {len(rest)} {what} to divide, fewer than the {testing + others + tuning} sets asked for")
    if spec.test_ratio * len(everyone) >= len(rest):
        raise UserError(f"--test-ratio {spec.test_ratio}: with the validation set it leaves nothing to train on")

    rest, test = units.divide(rest, spec.test_ratio * len(everyone) / len(rest), rng, before=others, after=tuning)
    if fixed is not None:
        vals = [fixed]
    elif spec.folds:
        vals = units.equal_parts(rest, spec.folds, rng)
    else:
        vals = [units.divide(rest, spec.val_ratio / (1 - spec.test_ratio), rng, before=1, after=tuning)[1]]
    return [
        _training_amounts(index, units, {"val": val, "test": test}, np.setdiff1d(rest, val), spec, own)
        for val, own in zip(vals, rng.spawn(len(vals)), strict=True)
    ]


def _training_amounts(
    index: pd.DataFrame, units: StratifiedUnits, held_out: dict[str, np.ndarray], training: np.ndarray, spec: SplitSpec,
    rng: np.random.Generator,
) -> dict[int, Sets]:
    """Divide the training units into the tune set and the nested amounts, and return {percent: sets}, smallest first."""
    amount, tune = units.divide(training, spec.tune_ratio, rng, before=1, after=0)
    whole = len(amount)
    splits = {}
    for ratio in sorted(spec.ratios, reverse=True):              # each smaller amount is taken from the next larger one
        _, amount = units.divide(amount, min(1.0, ratio * whole / len(amount)), rng, before=0, after=0)
        chosen = {"train": amount, "tune": tune, **held_out}
        splits[percent(ratio)] = {
            name: index[np.isin(units.unit_of, chosen[name])].reset_index(drop=True) for name in SETS
        }
    return dict(sorted(splits.items()))


def validation_exams(source: Path) -> list[str]:
    """Return the exams that validate in an earlier split (its folder, or that of one amount), or that a CSV lists.

    Raises UserError if there is no such file.
    """
    found = [source] if source.is_file() else sorted([*source.glob("val.csv"), *source.glob("*pct/val.csv")])
    if not found:
        raise UserError(f"--val-from {source}: is neither a CSV nor a splits folder with <pct>pct/val.csv")
    return list(dict.fromkeys(tables.EXAM_IDS.read(found[0]).exam_id))       # the same in every amount
