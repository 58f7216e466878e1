"""The page of a run has the figures of its files, needs no other file, and works in a browser."""
import json
import re
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
from helpers.commands import run
from helpers.small_study import image_facts, sets_in_turn, write_study
from PIL import Image

from medical_fenlei import tables
from medical_fenlei.config import EarSpec
from medical_fenlei.files import write_json
from medical_fenlei.pages.html import number
from medical_fenlei.run_report import page
from medical_fenlei.run_report.page import write_page
from medical_fenlei.runs import Run

SPEC = EarSpec(num_slices=8, image_size=32)
WORDS = ("--splits-root", "artifacts/splits_dual", "--pct", 100, "--cache-dir", "cache/dual_volumes", "--device", "cpu")
BEST = "outputs/a/checkpoints/best.pt"
FAST = ("--pictures", 0, "--resamples", 100)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs, calibrated and evaluated, with a picture of two of its cases."""
    here = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        write_study(here, sets_in_turn(train=10, tune=6, val=8), SPEC)
        assert run("train_ear2d", *WORDS, "--backbone", "test_resnet", "--epochs", 2, "--batch-size", 4, "--warmup-epochs", 0.5,
                   "--output-dir", "outputs/a") == 0
        assert (here / "outputs/a/reports/report.html").is_file()            # every run ends with one
        assert run("calibrate_ear2d", "--checkpoint", BEST) == 0
        assert run("eval_ear2d", "--checkpoint", BEST, "--resamples", 100) == 0
        assert run("audit_run", "--checkpoint", BEST, "--resamples", 100) in (0, 1)
        found = tables.PREDICTIONS.read(here / "outputs/a/reports/predictions_val.csv")
        for case in found[:2].itertuples():
            path = here / f"outputs/a/reports/explanations_val/{case.exam_id}_{case.side}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (300, 200), (40, 90, 160)).save(path)
            write_json(path.with_suffix(".json"), {"rows": [{"class_name": "abnormal", "probability": case.y_prob}]})
        write_page(Run(here / "outputs/a"))
    return here


@pytest.fixture
def here(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def test_the_page_needs_no_other_file_and_holds_the_figures_of_the_reports(here, tmp_path):
    text = (here / "outputs/a/reports/report.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text) and "http" not in re.sub(r"data:[^\"]*", "", text)
    told = json.loads((here / "outputs/a/reports/report.json").read_text())
    metrics = json.loads((here / "outputs/a/reports/metrics_val.json").read_text())
    assert told["evaluations"]["val"]["metrics"] == metrics["metrics"] and metrics["calibrated"]
    assert f"{metrics['metrics']['auroc']['estimate']:.3f}" in text
    predictions = tables.PREDICTIONS.read(here / "outputs/a/reports/predictions_val.csv")
    cases = pd.DataFrame(told["evaluations"]["val"]["cases"])
    assert set(zip(cases.exam_id, cases.side, strict=True)) == set(zip(predictions.exam_id, predictions.side, strict=True))
    assert cases.nll.is_monotonic_decreasing
    sets = {own["set"]: own for own in told["sets"]}
    split = tables.read_split(here / "artifacts/splits_dual", 100)
    assert {name: own["exams"] for name, own in sets.items()} == {name: len(frame) for name, frame in split.sets.items()}
    audits = told["audits"]
    assert audits["set"] == "val" and audits["audits"] and sum(audits["verdicts"].values()) == len(audits["audits"])
    text = (here / "outputs/a/reports/report.html").read_text(encoding="utf-8")
    assert f"{audits['verdicts']['undecided']} of {len(audits['audits'])} audits are\nundecided: neither passed nor" in text
    assert text.count('<span class="open">undecided</span>') == audits["verdicts"]["undecided"] > 0
    assert told["settings"]["training"]["epochs"] == 2


def test_the_page_counts_the_ears_of_its_own_evaluation_and_says_which_threshold_was_fitted(here):
    reports = here / "outputs/a/reports"
    flow = {row["what"]: row["number"] for row in json.loads((reports / "report.json").read_text())["flow"]}
    assert flow["ears evaluated"] == len(tables.PREDICTIONS.read(reports / "predictions_val.csv"))
    text = " ".join((reports / "report.html").read_text(encoding="utf-8").split())
    assert "both fitted" not in text
    fitted = r"Temperature [\d.]+, fitted on the tune set \(\d+ ears of \d+ patients\)"
    assert re.search(fitted + r"; decided at 0.500 \(half, fixed\)", text)


def test_the_tables_of_results_have_the_numbers_of_the_page_to_the_digit(here):
    reports = here / "outputs/a/reports"
    html, markdown = ((reports / name).read_text(encoding="utf-8") for name in ("report.html", "results_val.md"))
    metrics = json.loads((reports / "metrics_val.json").read_text())
    found = tables.RESULTS.read(reports / "results_val.csv").set_index(["point", "metric"])
    assert set(found.evaluation) == {metrics["evaluation"]} and metrics["evaluation"] in markdown
    wanted = {("", name): figure for name, figure in metrics["metrics"].items()}
    wanted |= {(point, name): own[name] for point, own in metrics["operating_points"].items()
               for name in ("sensitivity", "specificity", "ppv", "npv")}
    assert set(found.index) == set(wanted)
    for key, figure in wanted.items():
        row = found.loc[key]
        said = [str(number(None if pd.isna(row[end]) else row[end])) for end in ("estimate", "low", "high")]
        assert said == [number(figure[end]) for end in ("estimate", "low", "high")], key
        ends = figure["low"], figure["high"]
        interval = "no interval" if None in ends or ends[0] == ends[1] else f"{said[1]} to {said[2]}"
        cells = (f"| {row.measure} | {said[0]} | {interval} |", f'<td>{row.measure}</td><td class="n">{said[0]}</td><td '
                 f'class="n">{interval}</td>') if key[0] == "" else (f"{said[0]} ({interval})",) * 2
        assert cells[0] in markdown and cells[1] in html, key
    assert "results_val.csv, results_val.md" in html


def test_a_slice_is_shown_with_the_image_of_the_scan_that_it_was_cut_from(here):
    found = tables.PREDICTIONS.read(here / "outputs/a/reports/predictions_val.csv")
    html = (here / "outputs/a/reports/report.html").read_text(encoding="utf-8")
    images = image_facts(SPEC)
    for case in found.itertuples():
        for k, image in zip(case.top_slices.split(";"), case.top_images.split(";"), strict=True):
            number, z = (images[name][int(k)] for name in ("slice_images", "slice_z_mm"))
            assert image == f"image {number} (z {z:.1f} mm)" and image in html


def test_a_cache_that_does_not_hold_the_images_is_named_and_the_slices_stay(here, copied, capsys):
    there = copied(here)
    for path in (there / "cache/dual_volumes").glob("*/exam_*.json"):
        facts = json.loads(path.read_text())
        write_json(path, {name: value for name, value in facts.items() if name not in image_facts(SPEC)})
    assert run("eval_ear2d", "--checkpoint", BEST, *FAST) == 0
    assert "does not hold the numbers of the images" in capsys.readouterr().err
    found = tables.PREDICTIONS.read(there / "outputs/a/reports/predictions_val.csv")
    assert (found.top_slices != "").all() and found.top_images.str.fullmatch(";+").all()


def test_counts_that_are_part_of_another_are_indented_below_it(here, copied):
    there = copied(here)
    write_json(there / "artifacts/manifest_ears_counts.json", {
        "index": {"exams in the label sheet": 9, "matched to a folder": 8, "usable": 7}, "manifest": {"ears": 14}})
    text = write_page(Run(there / "outputs/a")).read_text(encoding="utf-8")
    indents = re.findall(r'<td style="padding-left: ([\d.]+)rem">', text)
    assert np.allclose(np.array(indents, float), [0.6, 1.8, 3.0, 0.6, 0.6])                 # the last: ears evaluated


def test_of_two_commands_that_end_together_the_page_that_stays_has_the_files_of_both(here, copied, monkeypatch):
    there, read, release = copied(here) / "outputs/a", threading.Event(), threading.Event()
    contents = page.report_contents

    def slow(run):
        found = contents(run)
        if not read.is_set():                                    # the first command, before it writes
            read.set()
            release.wait(60)
        return found

    monkeypatch.setattr(page, "report_contents", slow)
    one = threading.Thread(target=write_page, args=(Run(there),))
    one.start()
    assert read.wait(60)
    (there / "reports/audits.json").unlink()                     # what the second command has changed
    other = threading.Thread(target=write_page, args=(Run(there),))
    other.start()
    other.join(0.3)                                              # in turn: it waits; otherwise it is done
    release.set()
    for thread in (one, other):
        thread.join(60)
    assert json.loads((there / "reports/report.json").read_text())["audits"]["audits"] == []


def test_no_patient_key_stands_in_the_page(here):
    for name in ("report.html", "report.json"):
        assert "patient_of_" not in (here / "outputs/a/reports" / name).read_text(encoding="utf-8")


def test_missing_parts_of_a_run_are_left_out_or_named(here, tmp_path, monkeypatch):
    folder = tmp_path / "b"
    shutil.copytree(here / "outputs/a", folder)
    for path in folder.glob("reports/*"):
        if path.name != "curves.png":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    monkeypatch.chdir(tmp_path)                                              # where there are no tables
    text = write_page(Run(folder)).read_text(encoding="utf-8")
    assert "Not evaluated yet" in text and "cannot be read from here" in text


@pytest.mark.parametrize("elsewhere", [".", "here/outputs"])
def test_a_page_that_is_written_from_another_folder_shows_the_data_of_the_run(here, tmp_path, monkeypatch, elsewhere):
    folder = tmp_path / "here"
    shutil.copytree(here, folder)
    before = page.report_contents(Run(here / "outputs/a"))
    monkeypatch.chdir(tmp_path / elsewhere)
    after = page.report_contents(Run(folder / "outputs/a"))
    assert after == before and before["sets"] and not before["tables_missing"]


def test_figures_and_audits_of_another_network_are_marked(here, tmp_path, monkeypatch):
    folder = tmp_path / "b"
    shutil.copytree(here / "outputs/a", folder)
    monkeypatch.chdir(here)
    text = write_page(Run(folder)).read_text(encoding="utf-8")
    assert "used another network" not in text and "not that of the best" not in text
    for name, part in (("metrics_val.json", {"epoch": 7}), ("audits.json", {"data": {"manifest": "other"}})):
        path = folder / "reports" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | part))
    text = write_page(Run(folder)).read_text(encoding="utf-8")
    assert "used the network of epoch 7, not that of the best epoch" in text and "used another network or other tables" in text


def shown(browser):
    return browser.run("[...document.querySelectorAll('#table-val tbody tr')].filter(r => !r.hidden)"
                       ".map(r => [r.cells[0].textContent, r.cells[1].textContent, r.classList.contains('wrong')])")


def column(browser, number):
    return browser.run(f"[...document.querySelectorAll('#table-val tbody tr')].map(r => r.cells[{number}].dataset.n"
                       f" ?? r.cells[{number}].textContent)")


def test_in_a_browser_the_page_loads_sorts_filters_and_shows_pictures(here, browser, tmp_path):
    browser.open(here / "outputs/a/reports/report.html")
    found = tables.PREDICTIONS.read(here / "outputs/a/reports/predictions_val.csv")
    assert len(shown(browser)) == len(found)

    head = "document.querySelectorAll('#table-val th')[5]"                   # probability
    for sign in (1, -1):
        browser.run(f"{head}.click()")
        values = np.array(column(browser, 5), float)
        assert (np.diff(sign * values) >= 0).all() and np.allclose(np.sort(values), np.sort(found.y_prob))
    browser.run("document.querySelectorAll('#table-val th')[0].click()")
    exams = column(browser, 0)
    assert exams == sorted(exams)

    browser.run("(() => { const box = document.querySelector('input[data-wrong]'); box.click(); })()")
    wrong = found[found.y_true != found.y_pred]
    assert {(exam, side) for exam, side, _ in shown(browser)} == set(zip(wrong.exam_id, wrong.side, strict=True))
    browser.run("document.querySelector('input[data-wrong]').click()")
    exam = found.exam_id.iloc[0]
    browser.run(f"(() => {{ const s = document.querySelector('input[type=search]'); s.value = '{exam}';"
                "s.dispatchEvent(new Event('input')); })()")
    assert {row[0] for row in shown(browser)} == {exam}
    browser.run("(() => { const s = document.querySelector('select'); s.value = 'left';"
                "s.dispatchEvent(new Event('input')); })()")
    assert [row[:2] for row in shown(browser)] == [[exam, "left"]]
    assert browser.run("document.querySelector('[data-shown]').textContent") == f"1 of {len(found)}"

    pictures = browser.run("[...document.images].map(i => i.loading = 'eager') && Promise.all([...document.images]"
                           ".filter(i => i.getAttribute('src')).map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(pictures) >= 5 and min(pictures) > 100
    assert browser.run("document.querySelector('dialog').open") is False
    browser.run("document.querySelector('.cases img').click()")
    assert browser.run("document.querySelector('dialog').open && document.querySelector('dialog img').naturalWidth") == 300
    browser.screenshot(tmp_path / "page.png")
    assert Image.open(tmp_path / "page.png").size[1] > 1500
    assert browser.errors == []


def stale(folder, number, name):
    """Replace a file of the evaluation by one of another evaluation of the same ears, as a kill between two files leaves it."""
    kept = (folder / "reports" / name).read_bytes()
    assert run("eval_ear2d", "--checkpoint", folder / "checkpoints/best.pt", "--resamples", number, "--uncalibrated",
               "--pictures", 0) == 0
    (folder / "reports" / name).write_bytes(kept)
    return write_page(Run(folder)).read_text(encoding="utf-8"), json.loads((folder / "reports/report.json").read_text())


@pytest.mark.parametrize(("name", "part"), [("predictions_val.csv", "cases"), ("subgroups_val.csv", "subgroups"),
                                            ("curves_val.png", "plots"), ("subgroups_val.png", "plots")])
def test_what_another_evaluation_left_is_left_out_and_named(here, tmp_path, name, part):
    folder = tmp_path / "b"
    shutil.copytree(here / "outputs/a", folder)
    before = json.loads((folder / "reports/report.json").read_text())["evaluations"]["val"]
    assert before["left_out"] == [] and before[part]
    text, told = stale(folder, 60, name)
    after = told["evaluations"]["val"]
    assert after["left_out"] == [name]
    assert f"Left out because they are missing or of another evaluation; run eval_ear2d again: {name}" in text
    assert after["evaluation"] != before["evaluation"] and not after["calibrated"]
    if part == "plots":
        assert name not in after["plots"].values() and len(after["plots"]) == 1
    else:
        assert after[part] == []


def test_metrics_that_are_older_than_the_predictions_beside_them_stand_alone(here, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(here / "outputs/a", folder)
    before = json.loads((folder / "reports/report.json").read_text())["evaluations"]["val"]
    text, told = stale(folder, 60, "metrics_val.json")
    after = told["evaluations"]["val"]
    assert after["metrics"] == before["metrics"] and len(after["left_out"]) == 5
    assert (after["cases"], after["subgroups"], after["plots"]) == ([], [], {}) and 'alt="curves of val"' not in text


def test_an_evaluation_that_is_repeated_has_the_id_that_it_had_and_another_one_has_its_own(here, tmp_path):
    folder, ids = tmp_path / "b", []
    shutil.copytree(here / "outputs/a", folder)
    for words in ((), ("--resamples", 99), ("--point", "specificity_95"), ("--uncalibrated",)):
        assert run("eval_ear2d", "--checkpoint", folder / "checkpoints/best.pt", *FAST, *words) == 0
        ids.append(json.loads((folder / "reports/metrics_val.json").read_text())["evaluation"])
    assert ids[0] == json.loads((here / "outputs/a/reports/metrics_val.json").read_text())["evaluation"]
    assert len(set(ids)) == 4


def test_pictures_with_the_probability_of_another_evaluation_are_left_out_and_counted(here, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(here / "outputs/a", folder)
    drawn = sorted((folder / "reports/explanations_val").glob("*.json"))
    other = json.loads(drawn[0].read_text())
    other["rows"][0]["probability"] = (other["rows"][0]["probability"] + 0.5) % 1
    write_json(drawn[0], other)
    text = write_page(Run(folder)).read_text(encoding="utf-8")
    assert "run eval_ear2d again: 1 pictures of explanations_val" in text
    assert f'alt="{drawn[1].stem.replace("_left", " left").replace("_right", " right")}"' in text
    assert f'alt="{drawn[0].stem.replace("_left", " left").replace("_right", " right")}"' not in text


def test_a_plot_of_other_audits_is_left_out_and_named(here, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(here / "outputs/a", folder)
    assert 'alt="audits of val"' in write_page(Run(folder)).read_text(encoding="utf-8")
    kept = (folder / "reports/audits.png").read_bytes()
    assert run("audit_run", "--checkpoint", folder / "checkpoints/best.pt", "--resamples", 60) in (0, 1)
    (folder / "reports/audits.png").write_bytes(kept)
    audits = json.loads((folder / "reports/audits.json").read_text())
    write_json(folder / "reports/audits.json", audits | {"id": "of others"})
    text = write_page(Run(folder)).read_text(encoding="utf-8")
    assert 'alt="audits of val"' not in text and "run audit_run again: audits.png" in text
