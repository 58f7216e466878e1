"""The page about a manifest: what its labelled ears are, set by set, and what deserves a look."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medical_fenlei import tables
from medical_fenlei.cohort import groups as cohort
from medical_fenlei.cohort.groups import Finding, Grouping
from medical_fenlei.files import write_text
from medical_fenlei.pages.html import as_png, template
from medical_fenlei.tables import Split
from medical_fenlei.vocabulary import DIAGNOSES, NORMAL

COLOURS = {1: "#d1495b", 2: "#8f2d56", 3: "#2e86ab", 4: "#edae49", 5: "#9fb8a3", 6: "#6c757d"}
"""Of the codes; normal is the quiet one."""
LIGHT = (4, NORMAL)
"""Whose colours take dark letters."""
INK = ("#30638e", "#d1495b", "#edae49", "#66a182")
"""Of groups, in their order."""
SHOWN = 14
"""Values of a name that a figure and a table of the page show; the CSV has all."""
LABELS = {"n_instances": "slices", "slice_thickness_mm": "slice thickness, mm", "slice_increment_mm": "slice increment, mm",
          "pixel_spacing_mm": "pixel spacing, mm", "kvp": "tube voltage, kV", "manufacturer": "maker", "kernel": "kernel",
          "age_years": "age at the exam, years"}


def write_cohort(folder: Path, manifest: pd.DataFrame, roots: Sequence[Sequence[Split]]) -> list[Finding]:
    """`index.html`, which needs no other file, and the tables behind it as CSV; returns what deserves a look.

    roots: of each splits folder its amounts, smallest first.
    """
    ears = cohort.labelled_ears(manifest)
    dates, splits = cohort.by_date(ears), [cohort.by_set(ears, amounts, name) for amounts, name in _named_apart(roots)]
    everything = [Grouping("all", {"all": ears}), dates, *splits]
    found = cohort.findings(ears, dates, splits)
    numbers, names = cohort.scan_numbers(everything), cohort.scan_names(everything)
    classes, people, missing = cohort.classes(ears, [dates, *splits]), cohort.people(everything), cohort.missing_values(ears)
    for stem, table, frame in (
        ("scan_numbers", tables.QA_SCAN_NUMBERS, numbers), ("scan_names", tables.QA_SCAN_NAMES, names),
        ("classes", tables.QA_CLASSES, classes), ("people", tables.QA_PEOPLE, people),
        ("missing_values", tables.QA_MISSING, missing),
        ("findings", tables.QA_FINDINGS, tables.QA_FINDINGS.frame([finding._asdict() for finding in found])),
    ):
        table.write(folder / f"{stem}.csv", frame)
    exams = ears.drop_duplicates("exam_id")
    counts = {"labelled ears": len(ears), "without a label": len(manifest) - len(ears), "exams": len(exams),
              "patients": ears.patient_key.nunique(), "makers": exams.manufacturer.nunique(), "kernels": exams.kernel.nunique()}
    pictures = [
        ("Diagnoses in each group", _draw_classes(classes, [dates, *splits])),
        ("Diagnoses by scanner", _draw_scanners(ears)),
        *(("Scans in each group: " + grouping.name, _draw_scans(grouping)) for grouping in [dates, *splits]),
        *(("People in each set: " + grouping.name, _draw_people(grouping)) for grouping in splits or [dates]),
    ]
    write_text(folder / "index.html", template("cohort", "cohort.html").render(
        counts=counts, findings=found, pictures=[(title, as_png(figure)) for title, figure in pictures],
        shown=_tables(classes, numbers, names, people, missing), few=cohort.FEW, splits=[grouping.name for grouping in splits],
    ))
    return found


def _named_apart(roots: Sequence[Sequence[Split]]) -> list[tuple[Sequence[Split], str]]:
    """The splits folders by their last name, or by all of it where that is not enough."""
    folders = [amounts[0].folder.parent for amounts in roots]
    short = len({folder.name for folder in folders}) == len(folders)
    return [(amounts, folder.name if short else folder.as_posix()) for amounts, folder in zip(roots, folders, strict=True)]


def _tables(classes: pd.DataFrame, numbers: pd.DataFrame, names: pd.DataFrame, people: pd.DataFrame, missing: pd.DataFrame
            ) -> list[tuple[str, str, pd.DataFrame]]:
    """Title, file and cells of each table of the page."""
    by_code = classes.pivot_table(index=["by", "value"], columns="label_code", values="ears", sort=False).astype(int)
    by_code.columns = pd.Index([f"{code} {DIAGNOSES[int(code)].key}" for code in by_code.columns])
    by_code = by_code.assign(ears=by_code.sum(axis=1)).reset_index()
    wide = names.pivot_table(index=["parameter", "value"], columns=["by", "group"], values="exams", sort=False).fillna(0)
    wide = wide.astype(int).groupby("parameter", sort=False).head(SHOWN)
    wide.columns = pd.Index([_named(*column) for column in wide.columns.to_flat_index()])
    return [("Labelled ears by code", "classes.csv", by_code), ("Scanners, exams", "scan_names.csv", wide.reset_index()),
            ("Scans", "scan_numbers.csv", numbers), ("People", "people.csv", people),
            ("Missing values", "missing_values.csv", missing)]


def _named(by: str, group: str) -> str:
    return by if by == group else f"{by}: {group}"


def _draw_classes(classes: pd.DataFrame, groupings: Sequence[Grouping]) -> Figure:
    """The share of each code among the ears of each group, a bar a group."""
    bars = [(grouping.name, group) for grouping in groupings for group in (*grouping.nested, *grouping.groups)]
    bars = [("all", "all"), *bars, ("side", "left"), ("side", "right")]
    figure = Figure(figsize=(11, 0.9 + 0.34 * len(bars)), layout="constrained")
    axes = figure.subplots()
    own = classes.set_index(["by", "value", "label_code"]).ears
    for place, (by, value) in enumerate(bars):
        left, total = 0.0, max(sum(int(own.get((by, value, code), 0)) for code in DIAGNOSES), 1)
        for code in DIAGNOSES:
            number = int(own.get((by, value, code), 0))
            axes.barh(place, number / total, left=left, color=COLOURS[code], edgecolor="white", linewidth=0.6,
                      label=f"{code} {DIAGNOSES[code].key}" if place == 0 else None)
            if number / total > 0.025:
                axes.text(left + number / total / 2, place, str(number), ha="center", va="center", fontsize=8,
                          color="black" if code in LIGHT else "white")
            left += number / total
    axes.set_yticks(range(len(bars)), [_named(*bar) for bar in bars], parse_math=False)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the labelled ears; the numbers are ears")
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(DIAGNOSES), frameon=False, fontsize=9)
    return figure


def _draw_scanners(ears: pd.DataFrame) -> Figure:
    """What share of a scanner's ears has each code, with the numbers."""
    panels = {name: ears[name].replace("", "unknown") for name in ("manufacturer", "thickness", "model", "kernel")}
    tables_of = {name: pd.crosstab(values, ears.label_code).reindex(columns=list(DIAGNOSES), fill_value=0)
                 for name, values in panels.items()}
    tables_of = {name: table.loc[table.sum(axis=1).sort_values(ascending=False).index[:SHOWN]]
                 for name, table in tables_of.items()}
    heights = [len(table) + 1.5 for table in tables_of.values()]
    two = [max(heights[0], heights[1]), max(heights[2], heights[3])]
    figure = Figure(figsize=(12, 0.36 * sum(two)), layout="constrained")
    for axes, (name, table) in zip(figure.subplots(2, 2, height_ratios=two).flat, tables_of.items(), strict=True):
        counts = table.to_numpy()
        axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), number in np.ndenumerate(counts):
            dark = number > 0.55 * counts[row].sum()
            axes.text(column, row, str(number), ha="center", va="center", fontsize=8, color="white" if dark else "black")
        axes.set_xticks(range(len(DIAGNOSES)), [f"{code} {DIAGNOSES[code].key}".replace("_", "\n") for code in DIAGNOSES],
                        fontsize=7)
        axes.set_yticks(range(len(table)), [str(value) for value in table.index], fontsize=8, parse_math=False)
        axes.set_title(LABELS.get(name, name) if name != "thickness" else "slice thickness", fontsize=10)
        axes.spines[:].set_visible(False)
    return figure


def _draw_scans(grouping: Grouping) -> Figure:
    """How numbers of the scans are distributed over the exams of each group; grey: beyond the usual."""
    exams = {name: ears.drop_duplicates("exam_id") for name, ears in grouping.groups.items() if len(ears)}
    figure = Figure(figsize=(15, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(cohort.NUMBERS)), cohort.NUMBERS, strict=True):
        _steps(axes, {group: own[name] for group, own in exams.items()}, usual=cohort.USUAL[name])
        axes.set(xlabel=LABELS[name])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _draw_people(grouping: Grouping) -> Figure:
    """Age and sex of each group, a patient once; and age by diagnosis."""
    patients = {name: cohort.first_exams(ears) for name, ears in grouping.groups.items() if len(ears)}
    figure = Figure(figsize=(15, 3.2), layout="constrained")
    age, sex, code = figure.subplots(1, 3)
    _steps(age, {group: own.age_years for group, own in patients.items()}, usual=None)
    age.set(xlabel=LABELS["age_years"] + " (90: 90 or more)")
    known = [word for word in ("F", "M", "O", "") if any((own.sex == word).any() for own in patients.values())]
    for number, (group, own) in enumerate(patients.items()):
        width = 0.8 / len(patients)
        shares = [float((own.sex == word).mean()) for word in known]
        sex.bar(np.arange(len(known)) + (number - (len(patients) - 1) / 2) * width, shares, width,
                color=INK[number % len(INK)], label=f"{group} ({len(own)})")
    sex.set(xlabel="sex", ylabel="share of the patients")
    sex.set_xticks(range(len(known)), [word or "unknown" for word in known])
    ears = pd.concat([*grouping.groups.values()])
    boxes = {c: ears[(ears.label_code == c)].age_years.dropna().astype(float) for c in DIAGNOSES}
    boxes = {c: ages for c, ages in boxes.items() if len(ages)}
    if boxes:
        drawn = code.boxplot(list(boxes.values()), orientation="horizontal", patch_artist=True, widths=0.6, showfliers=False)
        for box, c in zip(drawn["boxes"], boxes, strict=True):
            box.set_facecolor(COLOURS[c] + ("" if c == NORMAL else "b0"))
        code.set_yticks(range(1, len(boxes) + 1), [f"{c} {DIAGNOSES[c].key} ({len(ages)})" for c, ages in boxes.items()])
        code.invert_yaxis()
    code.set(xlabel="age of the ears with each code, years")
    figure.legend(*sex.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _steps(axes: Axes, groups: dict[str, pd.Series], *, usual: tuple[float, float] | None) -> None:
    """The share of each group at or below each value; the usual range is white, what lies outside it grey."""
    known = {group: values.astype("float64").dropna().to_numpy() for group, values in groups.items()}
    axes.spines[["top", "right"]].set_visible(False)
    if not sum(map(len, known.values())):
        axes.text(0.5, 0.5, "unknown", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    for number, (group, values) in enumerate(known.items()):
        if len(values):
            axes.ecdf(values, color=INK[number % len(INK)], linewidth=1.5, label=f"{group} ({len(values)})")
    low, high = axes.get_xlim()
    if usual:
        axes.axvspan(low, min(max(low, usual[0]), high), color="0.9", linewidth=0)
        axes.axvspan(max(min(high, usual[1]), low), high, color="0.9", linewidth=0)
    axes.set(xlim=(low, high), ylim=(0, 1.02))
    axes.set_ylabel("share at or below", fontsize=8)
