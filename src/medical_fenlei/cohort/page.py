"""The page about a cohort: the labelled ears of a manifest, set by set, and what deserves a look."""
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.cohort.figures import MAX_VALUES, draw_classes, draw_people, draw_scanners, draw_scans, group_label
from medical_fenlei.cohort.findings import FEW_EARS, Finding, list_findings
from medical_fenlei.cohort.groupings import Grouping, group_by_date, group_by_set, labelled_ears
from medical_fenlei.cohort.summaries import age_and_sex, count_classes, missing_values, scan_names, scan_numbers
from medical_fenlei.files import write_text
from medical_fenlei.pages.html import as_png, template
from medical_fenlei.tables import Split
from medical_fenlei.vocabulary import DIAGNOSES


def write_cohort(folder: Path, manifest: pd.DataFrame, roots: Sequence[Sequence[Split]]) -> list[Finding]:
    """Write `index.html`, which needs no other file, and its tables as CSV, and return what deserves a look.

    roots: for each splits folder its amounts, smallest first.
    """
    ears = labelled_ears(manifest)
    dates, splits = group_by_date(ears), [group_by_set(ears, amounts, name) for amounts, name in _named(roots)]
    everything = [Grouping("all", {"all": ears}), dates, *splits]
    findings = list_findings(ears, dates, splits)
    numbers, names = scan_numbers(everything), scan_names(everything)
    classes, people, missing = count_classes(ears, [dates, *splits]), age_and_sex(everything), missing_values(ears)
    for stem, table, frame in (
        ("scan_numbers", tables.QA_SCAN_NUMBERS, numbers), ("scan_names", tables.QA_SCAN_NAMES, names),
        ("classes", tables.QA_CLASSES, classes), ("people", tables.QA_PEOPLE, people),
        ("missing_values", tables.QA_MISSING, missing),
        ("findings", tables.QA_FINDINGS, tables.QA_FINDINGS.frame([finding._asdict() for finding in findings])),
    ):
        table.write(folder / f"{stem}.csv", frame)
    exams = ears.drop_duplicates("exam_id")
    counts = {"labelled ears": len(ears), "without a label": len(manifest) - len(ears), "exams": len(exams),
              "patients": ears.patient_key.nunique(), "manufacturers": exams.manufacturer.nunique(),
              "kernels": exams.kernel.nunique()}
    pictures = [
        ("Diagnoses in each group", draw_classes(classes, [dates, *splits])),
        ("Diagnoses by scanner", draw_scanners(ears)),
        *(("Scans in each group: " + grouping.name, draw_scans(grouping)) for grouping in [dates, *splits]),
        *(("People in each set: " + grouping.name, draw_people(grouping)) for grouping in splits or [dates]),
    ]
    write_text(folder / "index.html", template("cohort", "cohort.html").render(
        counts=counts, findings=findings, pictures=[(title, as_png(figure)) for title, figure in pictures],
        shown=_tables(classes, numbers, names, people, missing), few=FEW_EARS, splits=[grouping.name for grouping in splits],
    ))
    return findings


def _named(roots: Sequence[Sequence[Split]]) -> list[tuple[Sequence[Split], str]]:
    """Return the splits folders with a name: the last part of their path, or all of it if that is ambiguous."""
    folders = [amounts[0].folder.parent for amounts in roots]
    short = len({folder.name for folder in folders}) == len(folders)
    return [(amounts, folder.name if short else folder.as_posix()) for amounts, folder in zip(roots, folders, strict=True)]


def _tables(classes: pd.DataFrame, numbers: pd.DataFrame, names: pd.DataFrame, people: pd.DataFrame, missing: pd.DataFrame
            ) -> list[tuple[str, str, pd.DataFrame]]:
    """Return title, file and cells of each table of the page."""
    by_code = classes.pivot_table(index=["by", "value"], columns="label_code", values="ears", sort=False).astype(int)
    by_code.columns = pd.Index([f"{code} {DIAGNOSES[int(code)].key}" for code in by_code.columns])
    by_code = by_code.assign(ears=by_code.sum(axis=1)).reset_index()
    wide = names.pivot_table(index=["parameter", "value"], columns=["by", "group"], values="exams", sort=False).fillna(0)
    wide = wide.astype(int).groupby("parameter", sort=False).head(MAX_VALUES)
    wide.columns = pd.Index([group_label(*column) for column in wide.columns.to_flat_index()])
    return [("Labelled ears by code", "classes.csv", by_code), ("Scanners, exams", "scan_names.csv", wide.reset_index()),
            ("Scans", "scan_numbers.csv", numbers), ("People", "people.csv", people),
            ("Missing values", "missing_values.csv", missing)]
