"""The figures of a cohort's page: diagnoses, scans and people in each group."""
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medical_fenlei.cohort.findings import USUAL
from medical_fenlei.cohort.groupings import Grouping, first_exam_per_patient
from medical_fenlei.cohort.summaries import SCAN_NUMBERS
from medical_fenlei.vocabulary import DIAGNOSES, NORMAL

CODE_COLOURS = {1: "#d1495b", 2: "#8f2d56", 3: "#2e86ab", 4: "#edae49", 5: "#9fb8a3", 6: "#6c757d"}
"""Colour of each code, muted for normal ears."""
LIGHT_CODES = (4, NORMAL)
"""Codes with a light colour, on which text is dark."""
GROUP_COLOURS = ("#30638e", "#d1495b", "#edae49", "#66a182")
"""Colours of groups, in their order."""
MAX_VALUES = 14
"""Largest number of values of a category in a figure or a table of the page; the CSV has all."""
LABELS = {"n_instances": "slices", "slice_thickness_mm": "slice thickness, mm", "slice_increment_mm": "slice increment, mm",
          "pixel_spacing_mm": "pixel spacing, mm", "kvp": "tube voltage, kV", "manufacturer": "manufacturer",
          "kernel": "kernel", "age_years": "age at the exam, years"}


def group_label(by: str, group: str) -> str:
    """Return the label of a group, or of a value of a column."""
    return by if by == group else f"{by}: {group}"


def draw_classes(classes: pd.DataFrame, groupings: Sequence[Grouping]) -> Figure:
    """Draw the share of each code among the ears of each group, as one bar per group."""
    bars = [(grouping.name, group) for grouping in groupings for group in (*grouping.nested, *grouping.groups)]
    bars = [("all", "all"), *bars, ("side", "left"), ("side", "right")]
    figure = Figure(figsize=(11, 0.9 + 0.34 * len(bars)), layout="constrained")
    axes = figure.subplots()
    own = classes.set_index(["by", "value", "label_code"]).ears
    for position, (by, value) in enumerate(bars):
        left, total = 0.0, max(sum(int(own.get((by, value, code), 0)) for code in DIAGNOSES), 1)
        for code in DIAGNOSES:
            number = int(own.get((by, value, code), 0))
            axes.barh(position, number / total, left=left, color=CODE_COLOURS[code], edgecolor="white", linewidth=0.6,
                      label=f"{code} {DIAGNOSES[code].key}" if position == 0 else None)
            if number / total > 0.025:
                axes.text(left + number / total / 2, position, str(number), ha="center", va="center", fontsize=8,
                          color="black" if code in LIGHT_CODES else "white")
            left += number / total
    axes.set_yticks(range(len(bars)), [group_label(*bar) for bar in bars], parse_math=False)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the labelled ears; the numbers are ears")
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(DIAGNOSES), frameon=False, fontsize=9)
    return figure


def draw_scanners(ears: pd.DataFrame) -> Figure:
    """Draw the share of each code among the ears of each scanner, kernel and slice thickness, with the numbers."""
    panels = {name: ears[name].replace("", "unknown") for name in ("manufacturer", "thickness", "model", "kernel")}
    counts_of = {name: pd.crosstab(values, ears.label_code).reindex(columns=list(DIAGNOSES), fill_value=0)
                 for name, values in panels.items()}
    counts_of = {name: table.loc[table.sum(axis=1).sort_values(ascending=False).index[:MAX_VALUES]]
                 for name, table in counts_of.items()}
    rows = [len(table) + 1.5 for table in counts_of.values()]
    height_ratios = [max(rows[0], rows[1]), max(rows[2], rows[3])]
    figure = Figure(figsize=(12, 0.36 * sum(height_ratios)), layout="constrained")
    for axes, (name, table) in zip(figure.subplots(2, 2, height_ratios=height_ratios).flat, counts_of.items(), strict=True):
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


def draw_scans(grouping: Grouping) -> Figure:
    """Draw the distribution of numeric scan parameters over the exams of each group; grey: outside the usual range."""
    exams = {name: ears.drop_duplicates("exam_id") for name, ears in grouping.groups.items() if len(ears)}
    figure = Figure(figsize=(15, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(SCAN_NUMBERS)), SCAN_NUMBERS, strict=True):
        _distribution(axes, {group: own[name] for group, own in exams.items()}, usual=USUAL[name])
        axes.set(xlabel=LABELS[name])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def draw_people(grouping: Grouping) -> Figure:
    """Draw age and sex in each group, with each patient once, and age by diagnosis."""
    patients = {name: first_exam_per_patient(ears) for name, ears in grouping.groups.items() if len(ears)}
    figure = Figure(figsize=(15, 3.2), layout="constrained")
    age, sex, by_code = figure.subplots(1, 3)
    _distribution(age, {group: own.age_years for group, own in patients.items()}, usual=None)
    age.set(xlabel=LABELS["age_years"] + " (90: 90 or more)")
    _sexes(sex, patients)
    _ages_by_code(by_code, pd.concat([*grouping.groups.values()]))
    figure.legend(*sex.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _sexes(axes: Axes, patients: dict[str, pd.DataFrame]) -> None:
    """Draw the share of each sex among the patients of each group."""
    sexes = [sex for sex in ("F", "M", "O", "") if any((own.sex == sex).any() for own in patients.values())]
    width = 0.8 / max(len(patients), 1)
    for number, (group, own) in enumerate(patients.items()):
        shares = [float((own.sex == sex).mean()) for sex in sexes]
        axes.bar(np.arange(len(sexes)) + (number - (len(patients) - 1) / 2) * width, shares, width,
                 color=GROUP_COLOURS[number % len(GROUP_COLOURS)], label=f"{group} ({len(own)})")
    axes.set(xlabel="sex", ylabel="share of the patients")
    axes.set_xticks(range(len(sexes)), [sex or "unknown" for sex in sexes])


def _ages_by_code(axes: Axes, ears: pd.DataFrame) -> None:
    """Draw a box plot of the ages for each code."""
    ages_of = {code: ears[ears.label_code == code].age_years.dropna().astype(float) for code in DIAGNOSES}
    ages_of = {code: ages for code, ages in ages_of.items() if len(ages)}
    if ages_of:
        drawn = axes.boxplot(list(ages_of.values()), orientation="horizontal", patch_artist=True, widths=0.6, showfliers=False)
        for box, code in zip(drawn["boxes"], ages_of, strict=True):
            box.set_facecolor(CODE_COLOURS[code] + ("" if code == NORMAL else "b0"))
        labels = [f"{code} {DIAGNOSES[code].key} ({len(ages)})" for code, ages in ages_of.items()]
        axes.set_yticks(range(1, len(ages_of) + 1), labels)
        axes.invert_yaxis()
    axes.set(xlabel="age of the ears with each code, years")


def _distribution(axes: Axes, groups: dict[str, pd.Series], *, usual: tuple[float, float] | None) -> None:
    """Draw the cumulative distribution of each group. The usual range is white, values outside it grey."""
    known = {group: values.astype("float64").dropna().to_numpy() for group, values in groups.items()}
    axes.spines[["top", "right"]].set_visible(False)
    if not sum(map(len, known.values())):
        axes.text(0.5, 0.5, "unknown", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    for number, (group, values) in enumerate(known.items()):
        if len(values):
            axes.ecdf(values, color=GROUP_COLOURS[number % len(GROUP_COLOURS)], linewidth=1.5, label=f"{group} ({len(values)})")
    low, high = axes.get_xlim()
    if usual:
        axes.axvspan(low, min(max(low, usual[0]), high), color="0.9", linewidth=0)
        axes.axvspan(max(min(high, usual[1]), low), high, color="0.9", linewidth=0)
    axes.set(xlim=(low, high), ylim=(0, 1.02))
    axes.set_ylabel("share at or below", fontsize=8)
