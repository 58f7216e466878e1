"""A file that was edited or damaged is one line that names the file and the field; no traceback, no absurd answer."""
import hashlib
import io
import json
import shutil
import struct
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.commands import run
from helpers.small_run import BEST, RUN
from helpers.small_study import CACHE, MANIFEST

from medical_fenlei import cli, settings, tables
from medical_fenlei.config import EAR2D, RunConfig
from medical_fenlei.ears.source import entry_states
from medical_fenlei.ears.store import choose_store
from medical_fenlei.experiments.study import Study
from medical_fenlei.files import sha256
from medical_fenlei.ingest.scan import ExamScan, _Kept
from medical_fenlei.phantom.hospital import write_hospital
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.run_report.page import write_page
from medical_fenlei.runs import Run
from medical_fenlei.trained.calibration import Calibration, TaskCalibration
from medical_fenlei.trained.network import open_network
from medical_fenlei.training.checkpoint_file import FOOTER, MARK
from medical_fenlei.vocabulary import Side

TASK = "normal_vs_abnormal"
PREDICTED = f"{RUN}/reports/predictions_val.csv"
METRICS, AUDITS, COUNTS = f"{RUN}/reports/metrics_val.json", f"{RUN}/reports/audits.json", "artifacts/manifest_ears_counts.json"
CONFIG, LINES, CALIBRATION = f"{RUN}/config.json", f"{RUN}/metrics.jsonl", BEST.replace(".pt", ".calibration.json")


@pytest.fixture(scope="module")
def study(small_run, tmp_path_factory):
    """A study with a run that was calibrated, evaluated and audited."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(small_run, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("eval_ear2d", "--checkpoint", BEST, "--resamples", 20, "--pictures", 0, "--device", "cpu") == 0
        row = {"question": "Sides?", "figure": "lead", "estimate": 0.1, "low": None, "high": None, "verdict": "ok", "words": ""}
        own = json.loads(Path(METRICS).read_text())
        Path(AUDITS).write_text(json.dumps({"task": TASK, "set": "val", "epoch": 1, "data": own["data"], "audits": [row]}))
        Path(COUNTS).write_text(json.dumps({"index": {"usable": 3}, "manifest": {"exams": 3}}))
        fitted = TaskCalibration(temperature=2.0, points={"half": 0.5}, point="half", ears=4, patients=2, loss_before=0.7,
                                 loss_after=0.6)
        Calibration(checkpoint=sha256(Path(BEST)), exams=frozenset({"exam_t"}), patients=frozenset({"patient_of_exam_t"}),
                    tasks={TASK: fitted}, data={}).write(Path(BEST))
    return folder


@pytest.fixture
def here(study, copied):
    """A copy of the study to work in."""
    return copied(study)


def refused(capsys, work, *named):
    """Whether work ends with status 2 and one line that names all of these."""
    def main():
        work()
        return 0

    status, said = cli.run(main), capsys.readouterr().err
    assert status == 2 and len(said.splitlines()) == 1 and all(str(name) in said for name in named), (status, said)


def page():
    write_page(Run(Path(RUN)))


def network():
    return open_network(Path(BEST), kind=EAR2D, device="cpu")


READERS = {
    METRICS: page, AUDITS: page, COUNTS: page, LINES: page,
    CONFIG: lambda: settings.from_json(RunConfig, Run(Path(RUN)).read_settings(), where=CONFIG),
    CALIBRATION: lambda: Calibration.read(Path(BEST), kind="ear2d"),
}
"""What the commands call that read a file."""
BY_FIELD = {
    METRICS: {"task": 3, "epoch": "first", "ears": -1, "patients": None, "per_class": [1], "metrics": {"auroc": 0.5},
              "metrics.auroc": {"estimate": 0.5}, "metrics.auroc.estimate": "high", "calibration": "none",
              "calibration.temperature": float("nan"), "operating_points": [], "warnings": "none", "data": 1,
              "metrics.auroc.low": 1e308},
    AUDITS: {"task": None, "audits": {}, "audits.0.verdict": "perhaps", "audits.0.estimate": 1e308, "audits.0.words": 5,
             "data": "none"},
    COUNTS: {"index": [], "manifest": {"exams": "three"}, "manifest.exams": 1e30},
    CONFIG: {"settings": [], "settings.training": None, "settings.training.lr": "fast", "settings.training.seed": 2**32,
             "settings.training.epochs": float("nan"), "settings.data.pct": [20], "settings.ears.num_slices": 1e308,
             "settings.model.pooling": "sum"},
    CALIBRATION: {"tasks": [], "tasks.normal_vs_abnormal.temperature": 1e-300, "tasks.normal_vs_abnormal.points": {"half": 2},
                  "tasks.normal_vs_abnormal.point": "other", "exams": [], "patients": 5, "checkpoint": None,
                  "tasks.normal_vs_abnormal.ears": "many"},
}
"""Values that each field must not have; dots lead into a field."""


def changed(path, field, value):
    """Write another value into a field of a JSON file."""
    whole = plain = json.loads(Path(path).read_text())
    *outer, last = [int(part) if part.isdecimal() else part for part in field.split(".")]
    for part in outer:
        plain = plain[part]
    plain[last] = value
    Path(path).write_text(json.dumps(whole))


def test_the_files_can_be_read_as_they_are(here):
    for reader in READERS.values():
        reader()


@pytest.mark.parametrize("path", READERS)
@pytest.mark.parametrize("damage", ["truncated", "list", "bytes", "deep"])
def test_a_damaged_json_file_is_named(here, capsys, path, damage):
    content = Path(path).read_bytes()
    Path(path).write_bytes({"truncated": content[: len(content) // 2] + b"\n", "list": b"[1]\n", "bytes": b"\xff\xfe\x00\n",
                            "deep": b"[" * 100_000 + b"\n"}[damage])
    refused(capsys, READERS[path], Path(path).name)


@pytest.mark.parametrize(("path", "field", "value"), [(p, f, v) for p, own in BY_FIELD.items() for f, v in own.items()])
def test_a_field_that_was_edited_is_named(here, capsys, path, field, value):
    changed(path, field, value)
    refused(capsys, READERS[path], Path(path).name, field.split(".")[-1])


@pytest.mark.parametrize(("path", "field"), [
    *((METRICS, name) for name in ("task", "set", "epoch", "ears", "patients", "per_class", "metrics", "warnings", "data")),
    *((AUDITS, name) for name in ("task", "set", "epoch", "data", "audits")), (COUNTS, "index"), (COUNTS, "manifest"),
    (CONFIG, "settings"), *((CALIBRATION, name) for name in ("checkpoint", "exams", "patients", "tasks", "data"))])
def test_a_field_that_is_missing_is_named(here, capsys, path, field):
    plain = json.loads(Path(path).read_text())
    del plain[field]
    Path(path).write_text(json.dumps(plain))
    refused(capsys, READERS[path], Path(path).name, f"field {field} is missing")


@pytest.mark.parametrize(("line", "named"), [
    ("[]", "content"), ("{", "is not JSON"), ('{"epoch": 1}', "field seconds is missing"),
    ('{"epoch": "one", "seconds": 1, "best_epoch": 1, "train_loss": 1, "lr": 1}', "field epoch")])
def test_a_damaged_line_of_the_metrics_is_named(here, capsys, line, named):
    Path(LINES).write_text(Path(LINES).read_text() + line + "\n")
    refused(capsys, page, "metrics.jsonl: line 2: " + named)


@pytest.mark.parametrize(("column", "value"), [
    ("y_true", "9"), ("y_true", "-1"), ("y_pred", "7"), ("y_pred", "-5"), ("y_prob", "nan"), ("y_prob", "2"),
    ("label_code", "9"), ("top_slices", "1;2;3"), ("top_slices", "a"), ("top_slice_weights", "x"),
    ("side", "both"), ("exam_id", "")])
def test_a_prediction_that_was_edited_is_named_by_page_and_comparison(here, capsys, column, value):
    table = pd.read_csv(PREDICTED, dtype=str, keep_default_na=False)
    shutil.copy(PREDICTED, "other.csv")
    table.loc[1, column] = value
    table.to_csv(PREDICTED, index=False)
    named = f"column '{column.rstrip('s')}"                      # slices that lack their weights are named by either
    refused(capsys, page, "predictions_val.csv", named, "row 3")
    assert run("compare_predictions", "--predictions", "other.csv", PREDICTED, "--resamples", 20) == 2
    assert named in capsys.readouterr().err


# Checkpoints

def rewritten(change):
    """Write a checkpoint with other content and a right checksum."""
    buffer = io.BytesIO()
    torch.save(change(torch.load(BEST, weights_only=True)), buffer)
    body = bytearray(buffer.getvalue())
    body[-2:] = struct.pack("<H", FOOTER)
    Path(BEST).write_bytes(bytes(body) + MARK + hashlib.sha256(body).hexdigest().encode())


def without(name):
    return lambda plain: {key: value for key, value in plain.items() if key != name}


def with_weights(change):
    return lambda plain: {**plain, "weights": change(plain["weights"])}


def first_as(tensor):
    return with_weights(lambda weights: {**weights, next(iter(weights)): tensor})


FIELDS = ("kind", "config", "weights", "epoch", "metric", "value", "state")
ODD_SUMMARY = {"ears": "many", "exams": 1, "ranges": {}, "kernels": {}, "codes": {}}
CHECKPOINTS = [
    (lambda plain: [plain], "field kind is missing"), *((without(name), f"field {name} is missing") for name in FIELDS),
    (lambda plain: {**plain, "notes": 1}, "field notes is unknown"), (lambda plain: {**plain, "epoch": "x"}, "field epoch"),
    (lambda plain: {**plain, "value": 1e308}, "field value"), (lambda plain: {**plain, "weights": [1]}, "field weights"),
    (lambda plain: {**plain, "kind": 3}, "field kind"), (lambda plain: {**plain, "config": {}}, "config"),
    (lambda plain: {**plain, "trained_on": "scans"}, "field trained_on"),
    (lambda plain: {**plain, "trained_on": ODD_SUMMARY}, "field trained_on.ears"),
    (lambda plain: {**plain, "trained_on": {**ODD_SUMMARY, "ears": 1, "ranges": {"age_years": [1e308, 2]}}},
     "field trained_on.ranges.age_years.0"),
    (first_as(1.0), "field weights."), (first_as(torch.zeros(2, 3, 5)), "field weights"), (with_weights(lambda weights: {}),
                                                                                          "field weights"),
    (lambda plain: {**plain, "config": {**plain["config"], "training": {**plain["config"]["training"], "lr": []}}}, "field lr"),
]


@pytest.mark.parametrize("case", range(len(CHECKPOINTS)))
def test_an_edited_checkpoint_is_refused_by_its_field(here, capsys, case):
    rewritten(CHECKPOINTS[case][0])
    refused(capsys, network, "best.pt", CHECKPOINTS[case][1])


def test_a_state_that_does_not_fit_is_no_traceback_of_resume(here, capsys):
    last = Path(BEST).with_name("last.pt")
    shutil.copy(last, BEST)
    rewritten(lambda plain: {**plain, "state": {"step": {}, "progress": {}}})
    shutil.copy(BEST, last)
    capsys.readouterr()
    assert run("train_ear2d", "--resume", RUN) == 2
    assert "last.pt: field weights or state does not fit" in capsys.readouterr().err


def test_a_checkpoint_that_names_other_data_than_its_run_says_where_it_works(here, capsys):
    shutil.copytree("cache", "elsewhere")

    def elsewhere(plain):
        data = {**plain["config"]["data"], "cache_dir": "elsewhere/dual_volumes"}
        return {**plain, "config": {**plain["config"], "data": data}}

    rewritten(elsewhere)
    Path(CALIBRATION).unlink()
    assert run("extract_embeddings_ear2d", "--checkpoint", BEST, "--split", "val", "--out-npz", "e.npz", "--device", "cpu") == 0
    assert "cache elsewhere/dual_volumes" in capsys.readouterr().err


# Cached ears

def ear(name="exam_x", side=Side.LEFT):
    return choose_store(Path(CACHE), None).npy(name, side)


@pytest.mark.parametrize(("field", "value"), [
    ("exam_id", 5), ("side", "both"), ("sha256", "short"), ("affine_lps", [[1, 0], [0, 1]]), ("affine_lps", "none"),
    ("affine_lps.0.0", 1e308), ("localization", [1]), ("padded_share", 7), ("slice_files", "a"), ("source", 4)])
def test_facts_of_an_ear_that_were_edited_are_named_with_the_command_that_cuts_it_anew(here, capsys, field, value):
    path = ear().with_suffix(".json")
    changed(path, field, value)
    opened = network()
    refused(capsys, lambda: opened.open_set(opened.config.data, "val", opened.tasks), path.name, "field " + field.split(".")[0],
            "build_cache")


def test_damaged_facts_of_an_ear_cost_its_row_of_the_index_alone(here):
    store = choose_store(Path(CACHE), None)
    whole = store.write_index()
    ear().with_suffix(".json").write_text("{")
    assert store.write_index() == whole - 1
    ears = tables.MANIFEST.read(Path(MANIFEST))
    assert list(entry_states(store, ears)[ears.exam_id == "exam_x"]) == ["damaged", "current"]


@pytest.mark.parametrize("command", ["eval_ear2d", "audit_run", "gradcam_ear2d"])
def test_a_volume_that_was_exchanged_is_noticed_by_its_hash(here, capsys, command):
    shutil.copy(ear("exam_y"), ear())
    words = ("--exam-id", "exam_x", "--side", "left") if command == "gradcam_ear2d" else ("--resamples", 20)
    assert run(command, "--checkpoint", BEST, "--device", "cpu", *words) == 2
    assert "exam_x_left.npy: is not the volume that was written with exam_x_left.json" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "named"), [("[]", "EarSpec"), ('{"num_slices": 4}', "missing"), ("{", "cannot be read")])
def test_a_damaged_spec_of_a_cache_is_named(here, capsys, content, named):
    path, = Path(CACHE).glob("*/spec.json")
    path.write_text(content)
    refused(capsys, lambda: choose_store(Path(CACHE), None), "spec.json", named)


# Studies, tables and flags

@pytest.mark.parametrize(("state", "named"), [
    ([], "content"), ({"seed_0": "done"}, "field seed_0"), ({"seed_0": {"status": "perhaps"}}, "field seed_0.status"),
    ({"seed_0": {"status": "done", "reason": ""}}, "field seed_0.settings is missing")])
def test_a_damaged_state_of_a_study_is_named(tmp_path, capsys, state, named):
    (tmp_path / "state.json").write_text(json.dumps(state))
    refused(capsys, Study(tmp_path, []).done, "state.json", named)


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": 3}'])
def test_a_damaged_note_of_a_hospital_is_named(tmp_path, capsys, content):
    note = tmp_path / "truth/hospital.json"
    note.parent.mkdir()
    note.write_text(content)
    refused(capsys, lambda: write_hospital(tmp_path, HospitalSpec(), workers=1), "hospital.json")


def test_a_kept_scan_that_was_edited_counts_as_not_read(tmp_path):
    kept, scan = tmp_path / "scan.jsonl", ExamScan(files=1, series=(), problems=(("a", "not_dicom", ""),))
    with _Kept(kept) as known:
        known.add("exam", "stamp", scan)
    line = kept.read_text()
    for edited, found in ((line, scan), (line.replace('"files":1', '"files":"x"'), None), (line.replace('"a",', ""), None),
                          (line.replace('"files":1', '"files":1e308'), None), (line.replace('"files"', '"file"'), None)):
        kept.write_text(edited)
        with _Kept(kept) as known:
            assert known.get("exam", "stamp") == found



@pytest.mark.parametrize(("column", "value"), [
    ("age_years", "1" + "0" * 30), ("age_years", "-3"), ("pixel_spacing_mm", "1e308"), ("slice_increment_mm", "-1"),
    ("n_instances", "1e300"), ("rows", "inf"), ("kvp", "1e16")])
def test_a_number_of_the_manifest_that_no_scan_has_is_named(here, capsys, column, value):
    lines = Path(MANIFEST).read_text().splitlines()
    names = lines[0].split(",")
    if column not in names:
        lines = [f"{line},{'' if n else column}" for n, line in enumerate(lines)]
        names.append(column)
    cells = lines[1].split(",")
    cells[names.index(column)] = value
    Path(MANIFEST).write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    refused(capsys, lambda: tables.MANIFEST.read(Path(MANIFEST)), "manifest_ears.csv", column, "row 2")


@pytest.mark.parametrize(("command", "words"), [
    ("train_ear2d", ("--seed", 2**32)), ("make_splits_dual", ("--seed", 10**30)), ("make_demo_dataset", ("--seed", 2**40)),
    ("run_seeds_ear2d", ("--pct", 100, "--seeds", f"0,{2**33}")), ("train_ear2d", ("--seed", -1)),
    ("train_ear2d", ("--lr", "inf"))])
def test_a_seed_or_a_rate_beyond_what_can_be_is_refused_at_once(here, capsys, command, words):
    assert run(command, *words) == 2
    assert words[-2].rstrip("s") in capsys.readouterr().err
