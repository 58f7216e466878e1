"""The same quantity of the same ears has one estimate and one interval, in every file and page of a study and of its runs."""
import json
import math
from collections import defaultdict
from html.parser import HTMLParser

import pytest
from helpers.commands import run
from helpers.small_study import CACHE, SPLITS, codes_in_turn, write_study

from medical_fenlei import tables
from medical_fenlei.config import EarSpec
from medical_fenlei.metrics.predictions import intervals_of
from medical_fenlei.pages.html import measure_name
from medical_fenlei.tasks import find_task

SPEC = EarSpec(num_slices=4, image_size=32, extent="half")
SETS = {"train": "abcdefgh", "tune": "tuvw", "val": "ijklmnopqrsxyz"}
WORDS = ("--splits-root", SPLITS, "--pct", 100, "--cache-dir", CACHE, "--backbone", "test_resnet", "--epochs", 1,
         "--batch-size", 4, "--device", "cpu", "--precision", "fp32")
TASKS = ("normal_vs_abnormal", "six_class")


class Rows(HTMLParser):
    """The cells of every row of every table of a page."""

    def __init__(self, text):
        super().__init__()
        self.rows, self._cell = [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module", params=TASKS)
def study(request, tmp_path_factory):
    """A study of one seed, calibrated, and its run, audited; and the task."""
    here = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("OMP_NUM_THREADS", "1")
        write_study(here, {name: codes_in_turn(exams, seed) for seed, (name, exams) in enumerate(SETS.items())}, SPEC)
        assert run("run_seeds_ear2d", *WORDS, "--seeds", 3, "--label-task", request.param) == 0
        folder, = (here / "outputs/ear2d_seeds").glob("*")
        assert run("eval_ear2d", "--checkpoint", folder / "seed_3/checkpoints/best.pt", "--pictures", 0) == 0
        assert run("compare_predictions", "--label-task", request.param, "--predictions",
                   *[folder / "seed_3/reports/predictions_val.csv"] * 2, "--out-dir", "artifacts/comparison") == 0
    return here, folder, find_task(request.param)


def finite(*values):
    return tuple(None if value is None or math.isnan(value) else float(value) for value in values)


def figures(here, folder, task):
    """Every (estimate, low, high) by quantity and by the file that says it; None for what is undefined or not said."""
    reports, found = folder / "seed_3/reports", defaultdict(dict)
    metrics = json.loads((reports / "metrics_val.json").read_text())
    page = json.loads((reports / "report.json").read_text())["evaluations"]["val"]
    for where, own in (("metrics_val.json", metrics), ("report.json", page)):
        for name, i in own["metrics"].items():
            found[name][where] = finite(i["estimate"], i["low"], i["high"])
        if task.binary:
            for name, i in own["operating_points"][own["calibration"]["point"]].items():
                if name != "threshold":
                    found[name][f"{where}, operating point"] = finite(i["estimate"], i["low"], i["high"])
    predictions = tables.PREDICTIONS.read(reports / "predictions_val.csv")
    for name, i in intervals_of(predictions, task).values.items():
        found[name]["predictions_val.csv"] = finite(i.estimate, i.low, i.high)
    for row in tables.SUBGROUPS.read(reports / "subgroups_val.csv").query("by == 'all'").itertuples():
        found[row.metric]["subgroups_val.csv"] = finite(row.estimate, row.low, row.high)
    for row in tables.SUMMARY.read(folder / "summary.csv").to_dict("records"):
        found[row["metric"]]["summary.csv"] = finite(row["mean"], row["low"], row["high"])
        found[row["metric"]]["summary.csv, ensemble"] = finite(row["ensemble"], row["ensemble_low"], row["ensemble_high"])
    for row in tables.COMPARISON.read(here / "artifacts/comparison/comparison.csv").to_dict("records"):
        for network in ("first", "second"):
            found[row["metric"]][f"comparison.csv, {network}"] = finite(
                row[network], row[f"{network}_low"], row[f"{network}_high"])
    runs = tables.RUNS.read(folder / "runs.csv").iloc[0]
    for name in found:
        found[name]["runs.csv"] = (*finite(runs[name]), *found[name]["metrics_val.json"][1:])
    return found


def is_interval(text):
    return " to " in text or text == "no interval"


def shown(folder, names):
    """The texts of every quantity, by the page or table that shows it. names: of all measures."""
    found, named = defaultdict(dict), {measure_name(name): name for name in names}
    for row in Rows((folder / "seed_3/reports/report.html").read_text(encoding="utf-8")).rows:
        if len(row) == 4 and is_interval(row[2]):                                # all measures
            found[named[row[0]]]["report.html"] = f"{row[1]} ({row[2]})"
        elif len(row) == 7 and is_interval(row[6]):
            found[named[row[4]]]["report.html, seeds"] = f"{row[5]} ({row[6]})"
        elif "(decides)" in row[0]:
            for name, cell in zip(("sensitivity", "specificity", "ppv", "npv"), row[2:], strict=True):
                found[name]["report.html, operating point"] = cell
    for row in Rows((folder / "index.html").read_text(encoding="utf-8")).rows:
        if len(row) == 8 and is_interval(row[5]):
            found[named[row[3]]]["index.html"] = f"{row[4]} ({row[5]})"
    lines = [line for line in (folder / "summary.md").read_text().splitlines() if "|" in line]
    heads, _, cells = (line.strip("| ").split(" | ") for line in lines)
    for name, cell in list(zip(heads, cells, strict=True))[3:]:
        found[name]["summary.md"] = cell.replace("nan", "–")
    return found


def test_every_file_has_the_same_estimate_and_interval_of_the_same_quantity(study):
    here, folder, task = study
    found = figures(here, folder, task)
    assert {"auroc", "brier"} < found.keys() and all(len(own) >= 7 for own in found.values())
    for name, by_file in found.items():
        assert len(set(by_file.values())) == 1, (name, by_file)


def test_every_page_shows_the_figures_of_the_files(study):
    _, folder, _ = study
    metrics = json.loads((folder / "seed_3/reports/metrics_val.json").read_text())["metrics"]
    found = shown(folder, metrics)
    assert {"report.html", "report.html, seeds", "index.html", "summary.md"} <= found["auroc"].keys()
    for name, by_page in found.items():
        value, low, high = (metrics[name][end] for end in ("estimate", "low", "high"))
        estimate = "–" if value is None else f"{value:.3f}"
        ends = "no interval" if None in (low, high) or low == high else f"{low:.3f} to {high:.3f}"
        assert not metrics[name]["reason"].startswith("no interval") or ends == "no interval"
        for page, text in by_page.items():
            assert text == f"{estimate} ({ends})", (name, page)


def test_a_measure_rests_on_the_patients_of_its_own_group(study):
    _, folder, task = study
    metrics = json.loads((folder / "seed_3/reports/metrics_val.json").read_text())["metrics"]
    ears = tables.PREDICTIONS.read(folder / "seed_3/reports/predictions_val.csv")
    summary = tables.SUMMARY.read(folder / "summary.csv").set_index("metric")
    of, ending = (1, "") if task.binary else (4, "_5")
    expected = {"accuracy": ears, "brier": ears, f"sensitivity{ending}": ears[ears.y_true == of],
                f"specificity{ending}": ears[ears.y_true != of], f"ppv{ending}": ears[ears.y_pred == of]}
    for name, own in expected.items():
        assert metrics[name]["support"] == own.patient_key.nunique() == summary.support[name], name
    assert metrics[f"auroc{ending}"]["support"] == min(
        ears.patient_key[(ears.y_true == of) == which].nunique() for which in (True, False))
