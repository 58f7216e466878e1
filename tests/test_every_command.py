"""Every command line of the README runs as it stands, on a tiny hospital; further flags make the sizes small."""
import json
import re
import shlex

import numpy as np
import pandas as pd
import pytest
from helpers.commands import ROOT, run, working_in

from medical_fenlei import tables
from medical_fenlei.runs import Run

pytestmark = pytest.mark.end_to_end

FIT = ("--epochs", 1, "--precision", "fp32", "--device", "cpu", "--batch-size", 4, "--num-workers", 1)
SMALL = {
    "build_index": ("--num-workers", 1), "build_manifest_ears": ("--num-workers", 1),
    "build_cache_ears": ("--num-slices", 6, "--image-size", 48, "--crop-size", 128, "--num-workers", 1),
    "qa_cache_ears": ("--worst", 3, "--num-workers", 1),
    "train_ear2d": ("--backbone", "test_resnet", *FIT, "--output-dir", "outputs/ear"),
    "run_seeds_ear2d": ("--backbone", "test_resnet", *FIT),
    "build_cache_dual": ("--num-slices", 16, "--image-size", 48, "--num-workers", 1),
    "train_dual": FIT, "predict_ear2d": ("--limit", 1), "audit_run": ("--resamples", 50),
    "eval_ear2d": ("--resamples", 50, "--pictures", 2), "eval_dual": ("--resamples", 50, "--pictures", 2),
    "compare_predictions": ("--resamples", 50),
}
"""Flags that are added to the command lines of a script."""
BEYOND_TRAINING = "_val|hospital_b|gradcam|neighbors|calibration|audits|one_sided|labels_to_read"
"""Files in a run's folder that other commands than training write."""


def readme_commands(name="README.md"):
    blocks = re.findall(r"```\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("python scripts/")]


def write_second_hospital(here):
    """Write the images and the manifest of a hospital of another seed where the README's command line reads them."""
    assert run("make_demo_dataset", "--out-dir", "b", "--num-exams", 5, "--slices", 24, "--num-workers", 1, "--seed", 3) == 0
    (here / "data/hospital_b").symlink_to(here / "b/data/medical_data_2")
    theirs = ("--dicom-base", "data/hospital_b", "--num-workers", 1)
    index, manifest = "artifacts/hospital_b/dataset_index.csv", "artifacts/hospital_b/manifest_ears.csv"
    assert run("build_index", *theirs, "--xlsx-path", "b/metadata/labels.xlsx", "--out-csv", index) == 0
    assert run("build_manifest_ears", *theirs, "--index-csv", index, "--out-csv", manifest) == 0


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A hospital in which every command line was run, in order: its folder, and for each line its status and what it said."""
    here = tmp_path_factory.mktemp("every")
    with working_in(here):
        hospital = ("--out-dir", ".", "--num-exams", 30, "--slices", 24, "--num-workers", 1, "--seed", 2)
        assert run("make_demo_dataset", *hospital) == 0
        (here / "data/new_exams").symlink_to(here / "data/medical_data_2")
        write_second_hospital(here)
        statuses = {}
        for line in readme_commands():
            script = re.match(r"python scripts/(\w+)\.py", line)[1]
            line_here = line.replace("pct_resnet18", "pct_test_resnet")
            line_here = line_here.replace("<run>", "dual_1" if "dual" in script else "ear")
            words = shlex.split(line_here)[2:]
            more = [str(word) for word in SMALL.get(script, ())]
            if script == "train_dual":
                more += ["--output-dir", f"outputs/dual_{words[words.index('--pct') + 1]}"]
            if "<id>" in words:
                words[words.index("<id>")] = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv").exam_id.iloc[0]
            statuses[line] = run(script, *words, *more)
    return here, statuses


def test_every_script_and_only_scripts_stand_in_both_readmes():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")} - {"make_demo_dataset", "pretrain_anatomy"}
    assert {re.match(r"python scripts/(\w+)\.py", line)[1] for line in readme_commands()} == scripts
    assert readme_commands("README.zh-CN.md") == readme_commands()


def test_every_command_line_ends_well(ran):
    assert {line: status for line, status in ran[1].items() if status} == {}


def test_the_splits_nest_and_the_caches_hold_what_their_keys_say(ran):
    here, _ = ran
    for root in ("splits_dual_patient", "splits_dual"):
        one, twenty, hundred = (tables.read_split(here / "artifacts" / root, pct).sets for pct in (1, 20, 100))
        assert set(one["train"].exam_id) <= set(twenty["train"].exam_id) <= set(hundred["train"].exam_id)
        assert set(one["val"].exam_id) == set(hundred["val"].exam_id)
    for folder, shape in (("ears_hu", (6, 48, 48)), ("dual_volumes", (16, 48, 48))):
        index_csv, = (here / "cache" / folder).glob("*/index.csv")
        index = tables.CACHE_INDEX.read(index_csv)
        assert len(index) and all(np.load(index_csv.parent / file).shape == shape for file in index.file)


def test_a_run_of_either_route_has_the_same_files(ran):
    here, _ = ran
    kept = [{str(path.relative_to(here / "outputs" / name)) for path in (here / "outputs" / name).rglob("*")
             if path.is_file() and "tfevents" not in path.name and not re.search(BEYOND_TRAINING, str(path))}
            for name in ("ear", "dual_1", "dual_20", "dual_100")]
    assert kept[0] == kept[1] == kept[2] == kept[3]
    assert {"config.json", "metrics.jsonl", "train.log", "checkpoints/best.pt", "reports/epoch_1.json"} <= kept[0]
    for name, ears in (("ear", 2), ("dual_100", 6)):
        report = json.loads((here / "outputs" / name / "reports/epoch_1.json").read_text())
        matrix = np.array(report["confusion"])
        assert matrix.shape == (ears, ears)
        assert [c["support"] for c in report["classes"].values()] == matrix.sum(1).tolist()
        line, = Run(here / "outputs" / name).read_metrics()
        assert line["tune_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())


def test_auto_batch_records_the_size_that_it_found(ran):
    for name in ("dual_20", "dual_100"):
        training = json.loads((ran[0] / "outputs" / name / "config.json").read_text())["settings"]["training"]
        assert training["auto_batch"] and training["batch_size"] >= 1


def test_the_evaluation_has_intervals_around_its_estimates(ran):
    said = json.loads((ran[0] / "outputs/ear/reports/metrics_val.json").read_text())
    defined = [m for m in said["metrics"].values() if m["low"] is not None]
    assert len(defined) >= 4 and all(m["low"] <= m["estimate"] <= m["high"] for m in defined)
    found = tables.PREDICTIONS.read(ran[0] / "outputs/ear/reports/predictions_val.csv")
    assert len(found) == said["ears"] and found.y_prob.between(0, 1).all() and (found.top_slices != "").all()


def test_a_second_hospital_of_another_seed_loses_no_ear_and_is_on_the_page(ran):
    manifest = tables.MANIFEST.read(ran[0] / "artifacts/hospital_b/manifest_ears.csv")
    found = tables.PREDICTIONS.read(ran[0] / "outputs/ear/reports/predictions_hospital_b.csv")
    labelled = manifest[manifest.label_code > 0]
    assert set(zip(found.exam_id, found.side, strict=True)) == set(zip(labelled.exam_id, labelled.side, strict=True))
    report = json.loads((ran[0] / "outputs/ear/reports/report.json").read_text())
    assert [own["name"] for own in report["side_by_side"][0]["columns"]] == ["val", "hospital_b"]


def test_seeds_are_summed_up_in_one_table(ran):
    folder, = (ran[0] / "outputs/ear2d_seeds").iterdir()
    summary = tables.SUMMARY.read(folder / "summary.csv").set_index("metric")
    runs = tables.RUNS.read(folder / "runs.csv")
    assert list(runs.seed) == [0, 1, 2] and (runs.status == "done").all() and (summary.seeds == 3).all()
    for name in ("auroc", "auprc", "sensitivity"):
        assert summary["mean"][name] == pytest.approx(runs[name].mean())
        assert summary["sd"][name] == pytest.approx(runs[name].std(ddof=1))
        assert summary["low"][name] <= summary["mean"][name] <= summary["high"][name]
    assert "±" in (folder / "summary.md").read_text(encoding="utf-8")


def test_gradcam_shows_the_most_attended_slices_of_the_ear(ran):
    folder, = (ran[0] / "outputs/ear/reports/gradcam").iterdir()
    said = json.loads((folder / "gradcam.json").read_text())
    weights = [s["weight"] for s in said["slices"]]
    assert said["side"] == "left" and folder.name == f"{said['exam_id']}_left" and weights == sorted(weights, reverse=True)
    pictures = [folder / name for s in said["slices"] for name in s["files"]] + [folder / "overview.png"]
    assert len(pictures) == 3 * 5 + 1 and all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)


def test_embeddings_hold_every_labelled_ear_of_their_set(ran):
    here, _ = ran
    manifest = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv")
    split = tables.read_split(here / "artifacts/splits_dual_patient", 100)
    for name in ("train", "val"):
        with np.load(here / f"artifacts/emb_{name}.npz", allow_pickle=False) as found:
            wanted = manifest[manifest.exam_id.isin(split.sets[name].exam_id) & (manifest.label_code > 0)]
            got = {key: found[key] for key in found}
        assert got["embedding"].dtype == np.float32 and np.isfinite(got["embedding"]).all()
        assert list(zip(got["exam_id"], got["side"], got["label_code"], strict=True)) == list(
            zip(wanted.exam_id, wanted.side, wanted.label_code, strict=True))


def test_few_shot_names_its_positives_and_never_a_neighbor_of_the_same_patient(ran):
    folder = ran[0] / "artifacts/fewshot_normal_vs_cholesterol_granuloma"
    assert json.loads((folder / "metrics.json").read_text())["task"] == "normal_vs_cholesterol_granuloma"
    manifest = tables.MANIFEST.read(ran[0] / "artifacts/manifest_ears.csv")
    patient = dict(zip(manifest.exam_id, manifest.patient_key, strict=True))
    near = pd.read_csv(folder / "neighbors.csv", dtype=str)
    assert len(near) and (near.exam_id.map(patient) != near.neighbor_exam_id.map(patient)).all()


def test_predictions_of_an_exam_are_probabilities_of_both_its_ears(ran):
    found = tables.DUAL_PREDICTIONS.read(ran[0] / "artifacts/predictions_dual.csv")
    val = tables.SPLIT.read(ran[0] / "artifacts/splits_dual/100pct/val.csv")
    assert list(found.exam_id) == list(val.exam_id)
    for side in ("left", "right"):
        each = found[[f"{side}_prob_{code}" for code in range(1, 7)]].to_numpy()
        np.testing.assert_allclose(each.sum(1), 1, atol=1e-9)
        assert (each.argmax(1) == found[f"{side}_y_pred"]).all() and (found[f"{side}_label_code"] == val[f"{side}_code"]).all()
