"""A small study without DICOM: a cache of small ear volumes, with the manifest and the splits that the commands read."""
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.config import EarSpec
from medical_fenlei.ears.source import EarSource
from medical_fenlei.ears.store import EarStore
from medical_fenlei.vocabulary import SIDES, UNLABELLED

Codes = Mapping[str, tuple[int | None, int | None]]
"""Codes of the left and right ear by exam: 0 for an ear without a label, None for an absent ear."""

SPEC = EarSpec(num_slices=16, image_size=32, extent="half")
SPLITS, MANIFEST, CACHE = "artifacts/splits_dual", "artifacts/manifest_ears.csv", "cache/dual_volumes"
"""Paths below the working folder, the defaults of the dual route."""


def codes_in_turn(names: str, seed: int = 0) -> dict[str, tuple[int, int]]:
    """Return the codes of one exam per letter; each of the six codes occurs about equally often."""
    order = np.random.default_rng(seed).permutation(np.resize(np.arange(1, 7), 2 * len(names)))
    return {f"exam_{name}": (int(left), int(right)) for name, (left, right) in zip(names, order.reshape(-1, 2), strict=True)}


def sets_in_turn(**sizes: int) -> dict[str, dict[str, tuple[int, int]]]:
    """Return sets of these numbers of exams, with the codes of `codes_in_turn`."""
    codes = iter(codes_in_turn("abcdefghijklmnopqrstuvwxyz"[: sum(sizes.values())]).items())
    return {name: dict(itertools.islice(codes, size)) for name, size in sizes.items()}


def write_manifest(path: Path, codes: Codes, hospital: str = "") -> None:
    """Write a manifest with one row per ear that is present; each exam is a patient of its own.

    hospital: of another one, exams and patients have the same ids, and series other images.
    """
    rows = [{"exam_id": exam, "side": str(side), "label_code": code} for exam, both in codes.items()
            for side, code in zip(SIDES, both, strict=True) if code is not None]
    frame = pd.DataFrame(rows).assign(
        date="2020-01-01", label_date="2020-01-01", date_match=True, n_instances=9, patient_key_source="patient_id",
        manufacturer="", model="", kernel="", transfer_syntax="", rows=64, columns=64, pixel_spacing_mm=0.5,
        slice_thickness_mm=1.0, slice_increment_mm=1.0)
    frame = frame.assign(patient_key="patient_of_" + frame.exam_id, series_relpath=frame.exam_id + "/bone",
                         series_digest=hospital + "digest_of_" + frame.exam_id)
    tables.MANIFEST.write(path, tables.MANIFEST.frame(frame.join(tables.task_columns(frame.label_code))))


def write_splits(folder: Path, sets: Mapping[str, Codes]) -> None:
    """Write `100pct/<set>.csv` for each set."""
    for name, codes in sets.items():
        rows = [{"exam_id": exam, "date": "2020-01-01", "label_date": "2020-01-01", "date_match": True,
                 "ambiguous_match": False, "exam_relpath": exam, "series_relpath": f"{exam}/bone", "n_instances": 9,
                 "left_code": both[0] or UNLABELLED, "right_code": both[1] or UNLABELLED, "series_reason": "",
                 "patient_key": f"patient_of_{exam}"} for exam, both in codes.items()]
        tables.SPLIT.write(folder / "100pct" / f"{name}.csv", tables.SPLIT.frame(rows))


def image_facts(spec: EarSpec) -> dict[str, list[float]]:
    """Return the images that the slices of an ear come from: every second one of the scan, numbered from the top down."""
    return {"slice_images": [2 * (spec.num_slices - k) for k in range(spec.num_slices)],
            "slice_z_mm": [1.5 * k - 20 for k in range(spec.num_slices)]}


def write_volumes(store: EarStore, codes: Codes, hospital: str = "") -> None:
    """Write both ears of every exam, absent ones too: noise of the hospital with a bright block that grows with the code."""
    store.write_spec()
    for number, (exam, both) in enumerate(codes.items()):
        for e, (side, code) in enumerate(zip(SIDES, both, strict=True)):
            volume = np.random.default_rng([number, e, *hospital.encode()]).integers(-800, 800, store.spec.shape)
            edge = store.spec.image_size // 8
            volume[:, edge:edge * (2 + (code or 0)), edge:3 * edge] += 900
            store.write(exam, side, volume.astype(np.int16), {
                **EarSource(f"{exam}/bone", f"{hospital}digest_of_{exam}").facts, "affine_lps": np.eye(4).tolist(),
                **image_facts(store.spec)})


def write_study(folder: Path, sets: Mapping[str, Codes], spec: EarSpec = SPEC) -> EarStore:
    """Write volumes, manifest and splits below a folder, where train_dual and train_ear2d can run; return the cache."""
    everything = {exam: both for codes in sets.values() for exam, both in codes.items()}
    store = EarStore(folder / CACHE, spec)
    write_volumes(store, everything)
    write_manifest(folder / MANIFEST, everything)
    write_splits(folder / SPLITS, sets)
    return store
