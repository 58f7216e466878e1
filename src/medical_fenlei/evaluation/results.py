"""The measures of an evaluation as tables to paste into a paper: the numbers of the page, to the digit."""
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medical_fenlei import tables
from medical_fenlei.files import write_text
from medical_fenlei.metrics.interval_table import interval_words
from medical_fenlei.pages.html import measure_name, number
from medical_fenlei.vocabulary import plural

DIGITS = 3
"""Decimals of every number, as on the page."""
POINT_MEASURES = ("sensitivity", "specificity", "ppv", "npv")
"""Measures of an operating point, as on the page."""


def write_results(metrics_json: Path) -> list[Path]:
    """Write `results_<label>.csv` and `.md` beside a `metrics_<label>.json`, from what it holds; return the files."""
    metrics = tables.METRICS.read(metrics_json)
    csv = metrics_json.with_name(f"results_{metrics_json.stem.removeprefix('metrics_')}.csv")
    tables.RESULTS.write(csv, tables.RESULTS.frame(list(_rows(metrics))))
    write_text(csv.with_suffix(".md"), _markdown(metrics))
    return [csv, csv.with_suffix(".md")]


def _rows(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of `tables.RESULTS`: every measure as decided, then those of each operating point."""
    about = {name: metrics[name] for name in ("task", "set", "ears", "patients", "evaluation")}
    for name, found in metrics["metrics"].items():
        yield {**about, "point": "", "threshold": None, **_figure(name, found)}
    for point, each in metrics["operating_points"].items():
        for name in POINT_MEASURES:
            yield {**about, "point": point, "threshold": round(each["threshold"], DIGITS), **_figure(name, each[name])}


def _figure(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    ends = {end: None if found[end] is None else round(found[end], DIGITS) + 0.0 for end in ("estimate", "low", "high")}
    return {"metric": name, "measure": measure_name(name), **ends, "support": found.get("support"),
            "note": found.get("reason", "")}


def _markdown(metrics: Mapping[str, Any]) -> str:
    """A line about the set, the table of the measures, that of the operating points, the warnings, and the evaluation's id."""
    classes = ", ".join(f"{count} {name}" for name, count in metrics["per_class"].items())
    size = f"{plural(metrics['ears'], 'ear')} of {plural(metrics['patients'], 'patient')}"
    lines = [f"# {metrics['task']}, {metrics['set']}: {size} ({classes})", "",
             f"{_decided(metrics)} 95 % intervals by patient, {metrics['resamples']} resamples.", "",
             "| measure | estimate | 95 % interval | note |", "|---|---|---|---|"]
    for name, found in metrics["metrics"].items():
        cells = [measure_name(name), number(found["estimate"]), interval_words(found["low"], found["high"])]
        lines.append(f"| {' | '.join(cells)} | {found.get('reason', '')} |")
    if metrics["operating_points"]:
        lines += ["", "| operating point | threshold | " + " | ".join(map(measure_name, POINT_MEASURES)) + " |",
                  "|" + "---|" * (2 + len(POINT_MEASURES))]
        for point, each in metrics["operating_points"].items():
            name = point.replace("_", " ") + (" (decides)" if point == metrics["calibration"]["point"] else "")
            cells = [f"{number(each[own]['estimate'])} ({interval_words(each[own]['low'], each[own]['high'])})"
                     for own in POINT_MEASURES]
            lines.append("| " + " | ".join([name, number(each["threshold"]), *cells]) + " |")
    lines += ["", *(f"- {text}" for text in metrics["warnings"]), *([""] if metrics["warnings"] else []),
              f"Evaluation {metrics['evaluation']}. For research; not a medical device."]
    return "\n".join(lines) + "\n"


def _decided(metrics: Mapping[str, Any]) -> str:
    """How the probabilities were calibrated and decided, in words."""
    fitted = metrics["calibration"]
    how = f"Calibrated with temperature {number(fitted['temperature'])}" if metrics["calibrated"] else "Not calibrated"
    if not fitted["points"]:
        return f"{how}; the most probable class is taken."
    return f"{how}; decided at {number(fitted['points'].get(fitted['point']))} ({fitted['point'].replace('_', ' ')})."
