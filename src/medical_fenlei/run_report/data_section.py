"""The data section of a run's page: how many ears the exams yielded, and the patients, scans and diagnoses of each set."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.cohort.groupings import first_exam_per_patient, group_by_set, labelled_ears
from medical_fenlei.config import DataConfig
from medical_fenlei.errors import UserError
from medical_fenlei.external_cohort import ExternalCohort, cohorts_of
from medical_fenlei.leakage.shared import describe_parted_patients
from medical_fenlei.set_sizes import SetSize
from medical_fenlei.tasks import OUTSIDE, Task, find_tasks
from medical_fenlei.vocabulary import DIAGNOSES, vendor

MOST_VALUES = 4
"""Values of a name that a set lists; the others are counted together."""


def data_section(data: DataConfig, reports: Path, evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return `flow` (counts from exams to ears), `sets` (one entry per set), `parted_patients`, `small_sets`, `tables_missing`.

    evaluations: those of `report.json`, by label; the flow ends with the ears of those of the run's own sets, if any.
    `parted_patients` is a warning if the split has a patient in several sets, `small_sets` one for each set and task that is
    too small. Where the tables of the run cannot be read, the others are empty and `tables_missing` is the reason.
    """
    try:
        manifest, split = tables.MANIFEST.read(data.manifest_csv), tables.read_split(data.splits_root, data.pct)
        labels = [label for label, own in evaluations.items()
                  if not own.get("cohort") and f"predictions_{label}.csv" not in own["left_out"]]
        evaluated = _evaluated_ears(reports, labels)
    except UserError as error:
        return {"flow": [], "sets": [], "parted_patients": "", "small_sets": [], "tables_missing": str(error)}
    ears, tasks = labelled_ears(manifest), find_tasks(data.label_task)
    sets = group_by_set(ears, [split], "set").groups
    small = [SetSize.of(own, task).warning(name) for name, own in sets.items() for task in tasks]
    counts = {"ears evaluated": len(evaluated)} if labels else {}
    return {"flow": _flow(data.manifest_csv, manifest, ears, counts),
            "sets": [_set_figures(name, own, tasks) for name, own in sets.items()], "small_sets": list(filter(None, small)),
            "parted_patients": describe_parted_patients(manifest, split), "tables_missing": ""}


def cohort_sections(reports: Path, data: DataConfig, evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return `name`, `flow`, `figures` (an entry of `sets`) and `tables_missing` of each cohort that was evaluated in a run.

    evaluations: `metrics_<label>.json` by label. The figures are those of the ears that were evaluated.
    """
    return [_cohort_section(cohort, reports, [
        label for label, own in evaluations.items() if own.get("cohort") == own["set"] == cohort.name
    ], find_tasks(data.label_task)) for cohort in cohorts_of(reports)]


def _cohort_section(cohort: ExternalCohort, reports: Path, labels: Sequence[str], tasks: Sequence[Task]) -> dict[str, Any]:
    try:
        manifest = tables.MANIFEST.read(cohort.manifest_csv)
        evaluated = _evaluated_ears(reports, labels)
    except UserError as error:
        return {"name": cohort.name, "flow": [], "figures": None, "tables_missing": str(error)}
    ears = labelled_ears(manifest)
    own = ears.merge(evaluated, on=["exam_id", "side"])
    counts = {"ears of patients that the network was fitted on, left out": cohort.ears_left_out, "ears evaluated": len(own)}
    return {"name": cohort.name, "flow": _flow(cohort.manifest_csv, manifest, ears, counts),
            "figures": _set_figures(cohort.name, own, tasks), "tables_missing": ""}


def _evaluated_ears(reports: Path, labels: Sequence[str]) -> pd.DataFrame:
    """exam_id and side of each ear of the evaluations with these labels, once."""
    predictions = [tables.PREDICTIONS.read(reports / f"predictions_{label}.csv") for label in labels]
    return pd.concat([tables.PREDICTIONS.empty(), *predictions])[["exam_id", "side"]].drop_duplicates()


def join_flows(flows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the rows of several flows: `of`, `what` and `numbers`, one for each flow, None where it lacks the row."""
    parts = dict.fromkeys(row["of"] for flow in flows.values() for row in flow)
    names = dict.fromkeys((row["of"], row["what"]) for part in parts for flow in flows.values() for row in flow
                          if row["of"] == part)
    numbers = [{(row["of"], row["what"]): row["number"] for row in flow} for flow in flows.values()]
    return [{"of": of, "what": what, "numbers": [own.get((of, what)) for own in numbers]} for of, what in names]


def _flow(manifest_csv: Path, manifest: pd.DataFrame, ears: pd.DataFrame, evaluated: Mapping[str, int]
          ) -> list[dict[str, Any]]:
    """Counts of the index, the manifest and the evaluation; without counts beside it, the rows of the manifest are counted."""
    path = tables.counts_path(manifest_csv)
    counts = tables.MANIFEST_COUNTS.read(path) if path.is_file() else {"index": {}, "manifest": {}}
    of_manifest = counts["manifest"] or {
        "exams": manifest.exam_id.nunique(), "ears": len(manifest), "labelled ears": len(ears),
        "patients": manifest.patient_key.nunique()}
    of_index = {what: number for what, number in counts["index"].items() if not what.startswith("files")}
    return [{"what": what, "number": number, "of": of}
            for of, numbers in (("sheet and disk", of_index), ("manifest", of_manifest), ("evaluation", evaluated))
            for what, number in numbers.items()]


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
