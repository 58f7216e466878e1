"""The page of a run: all its results in one file that needs neither a server nor the network.

It is made from the files in the run's folder and the tables that its configuration names. Every command that adds to `reports/`
ends by writing it again. `report.json` holds the same figures for programs.
"""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medical_fenlei.exclusive import in_turn
from medical_fenlei.files import write_json, write_text
from medical_fenlei.metrics.calibration import HALF, PREVALENCE
from medical_fenlei.pages.html import embedded, template
from medical_fenlei.run_report.contents import report_contents
from medical_fenlei.run_report.data_section import join_flows
from medical_fenlei.runs import Run
from medical_fenlei.tables.index_counts import count_depth
from medical_fenlei.vocabulary import DIAGNOSES

POINT_ORIGINS = {HALF: "fixed", PREVALENCE: "from the share of positive ears in the training set"}
"""Where the threshold of an operating point comes from, unless it was chosen on the tune set."""
PAGE_LOCK = ".report.lock"
MOST_PICTURES = 300
"""Pictures of cases on the page, some 30 kB each: the cases with the greatest negative log-likelihood."""
WIDTH = 1000
"""Width of a picture of a case, pixels."""


def write_page(run: Run) -> Path:
    """Write `reports/report.html` and `report.json`; return the page. Raises UserError if the folder is not a run.

    Commands that end at once read and write in turn, so that the page that stays has the files of all of them.
    """
    run.read_settings()                                          # refused here if it is no run, before a lock is left there
    with in_turn(run.folder / PAGE_LOCK):
        return _write_page(run)


def _write_page(run: Run) -> Path:
    contents = report_contents(run)
    write_json(run.reports / "report.json", contents)
    page = run.reports / "report.html"
    write_text(page, template("run_report", "run.html", count_depth=count_depth).render(
        **contents, title=contents["run"], diagnoses=DIAGNOSES, point_origins=POINT_ORIGINS, pictures=_plots(run, contents),
        flows=join_flows({"": contents["flow"], **{own["name"]: own["flow"] for own in contents["cohorts"]}}),
        cases_with={label: _case_pictures(run, label, own["cases"]) for label, own in contents["evaluations"].items()},
        settings_text=json.dumps(contents["settings"], indent=2, ensure_ascii=False)))
    return page


def write_training_report(run: Run) -> Path:
    """Write `reports/curves.png` of a run that was trained, and its page; return the page."""
    from medical_fenlei.run_report.curves import plot_training  # slow to import

    lines = list(run.read_metrics())
    plot_training(run.reports / "curves.png", lines, best_epoch=lines[-1]["best_epoch"])
    return write_page(run)


def _plots(run: Run, contents: Mapping[str, Any]) -> dict[str, str]:
    """The plots that exist, as data URLs by file name."""
    names = ["curves.png", *(own["plot"] for own in (contents["audits"], *contents["cohort_audits"].values())),
             *(name for own in contents["evaluations"].values() for name in own["plots"].values())]
    return {name: embedded(run.reports / name) for name in names if name and (run.reports / name).is_file()}


def _case_pictures(run: Run, label: str, cases: list[dict[str, Any]]) -> dict[str, str]:
    """The explanations of an evaluation's cases that were drawn, as data URLs by `<exam>_<side>`."""
    folder = run.reports / f"explanations_{label}"
    drawn = [case for case in cases if case["picture"]]
    return {f"{case['exam_id']}_{case['side']}": embedded(folder / case["picture"], width=WIDTH)
            for case in drawn[:MOST_PICTURES]}
