"""The data section of a run's page: how many ears the exams yielded, and the patients, scans and diagnoses of each set."""
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.cohort.groupings import first_exam_per_patient, group_by_set, labelled_ears
from medical_fenlei.config import DataConfig
from medical_fenlei.errors import UserError
from medical_fenlei.files import read_json
from medical_fenlei.leakage.shared import describe_parted_patients
from medical_fenlei.set_sizes import SetSize
from medical_fenlei.tasks import OUTSIDE, Task, find_tasks
from medical_fenlei.vocabulary import DIAGNOSES, vendor

MOST_VALUES = 4
"""Values of a name that a set lists; the others are counted together."""


def data_section(data: DataConfig) -> dict[str, Any]:
    """Return `flow` (counts from exams to ears), `sets` (one entry per set), `parted_patients`, `small_sets`, `tables_missing`.

    `parted_patients` is a warning if the split has a patient in several sets, `small_sets` one for each set and task that is
    too small. Where the tables of the run cannot be read, the others are empty and `tables_missing` is the reason.
    """
    try:
        manifest, split = tables.MANIFEST.read(data.manifest_csv), tables.read_split(data.splits_root, data.pct)
    except UserError as error:
        return {"flow": [], "sets": [], "parted_patients": "", "small_sets": [], "tables_missing": str(error)}
    ears, tasks = labelled_ears(manifest), find_tasks(data.label_task)
    sets = group_by_set(ears, [split], "set").groups
    small = [SetSize.of(own, task).warning(name) for name, own in sets.items() for task in tasks]
    return {"flow": _flow(data, manifest, ears), "sets": [_set_figures(name, own, tasks) for name, own in sets.items()],
            "small_sets": list(filter(None, small)),
            "parted_patients": describe_parted_patients(manifest, split), "tables_missing": ""}


def _flow(data: DataConfig, manifest: pd.DataFrame, ears: pd.DataFrame) -> list[dict[str, Any]]:
    """Counts of the index and of the manifest; those of the manifest come from its rows if no counts are kept beside it."""
    path = tables.counts_path(data.manifest_csv)
    counts: Mapping[str, Mapping[str, int]] = read_json(path) if path.is_file() else {"index": {}, "manifest": {}}
    of_manifest = counts["manifest"] or {
        "exams": manifest.exam_id.nunique(), "ears": len(manifest), "labelled ears": len(ears),
        "patients": manifest.patient_key.nunique()}
    of_index = {what: number for what, number in counts["index"].items() if not what.startswith("files")}
    return [{"what": what, "number": number, "of": of}
            for of, numbers in (("sheet and disk", of_index), ("manifest", of_manifest)) for what, number in numbers.items()]


def _set_figures(name: str, ears: pd.DataFrame, tasks: Sequence[Task]) -> dict[str, Any]:
    """Exams, patients, ears by task and code, age and sex of the patients, and the scans of one set."""
    patients, exams = first_exam_per_patient(ears), ears.drop_duplicates("exam_id")
    codes = ears.label_code.to_numpy()
    return {
        "set": name, "exams": len(exams), "patients": len(patients), "labelled ears": len(ears),
        **{f"ears of {task.name}": int((task.targets(codes) != OUTSIDE).sum()) for task in tasks},
        **{f"code {code}": int((codes == code).sum()) for code in DIAGNOSES},
        "age, median (quartiles)": _quartiles(patients.age_years.dropna().astype(float)),
        "women": int((patients.sex == "F").sum()), "men": int((patients.sex == "M").sum()),
        "makers": _counted(exams.manufacturer.map(vendor)), "kernels": _counted(exams.kernel),
        "slice thickness": _counted(exams.thickness),
    }


def _quartiles(age: pd.Series) -> str:
    if age.empty:
        return "unknown"
    return f"{age.median():.0f} ({age.quantile(0.25):.0f} to {age.quantile(0.75):.0f})"


def _counted(values: pd.Series) -> str:
    """The most frequent values with their counts, and the count of all others."""
    counts = values.replace("", "unknown").value_counts()
    shown = [f"{value} {number}" for value, number in counts.head(MOST_VALUES).items()]
    if len(counts) > MOST_VALUES:
        shown.append(f"{len(counts) - MOST_VALUES} others {counts.iloc[MOST_VALUES:].sum()}")
    return ", ".join(shown)
