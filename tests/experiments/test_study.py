"""A study can be killed at any moment and continued, shows its command lines, and sums up its runs."""
import json
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.commands import ROOT, run, script
from helpers.locks import held
from helpers.processes import Interruption, exit_status, output_of, start
from helpers.small_study import CACHE, codes_in_turn, write_study

from medical_fenlei import cli, settings, tables
from medical_fenlei.commands.train import add_run_flags, with_cache
from medical_fenlei.config import DUAL_ROUTE, EarSpec, RunConfig, decisive_settings
from medical_fenlei.errors import UserError
from medical_fenlei.experiments.seeds import mean_over_seeds
from medical_fenlei.experiments.study import Job, Study
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.tasks import find_task

SMALL = ("--label-task", "normal_vs_abnormal", "--epochs", 3, "--precision", "fp32", "--device", "cpu",
         "--backbone", "test_resnet", "--batch-size", 4)
MATRIX = ("run_experiments_dual", *SMALL, "--pcts", "20,100", "--models", "dual_unet_3d,dual_slice_attention")
TWO = ("normal_vs_abnormal", "cholesteatoma_vs_csoma")
TABLES = ("runs.csv", "summary.csv", "summary.md")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A cache and splits of two amounts, in the current folder."""
    codes = codes_in_turn("abcdefghijklmnopqr")
    exams = list(codes)
    sets = {name: {exam: codes[exam] for exam in exams[first:last]}
            for name, first, last in (("train", 0, 8), ("tune", 8, 12), ("val", 12, 18))}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_study(tmp_path, sets)
    splits = tmp_path / "artifacts/splits_dual"
    shutil.copytree(splits / "100pct", splits / "20pct")
    tables.SPLIT.write(splits / "20pct/train.csv", tables.SPLIT.read(splits / "20pct/train.csv")[:4])
    return tmp_path


def execute(here, *words):
    """Run a command in a process of its own; return its exit status and its output."""
    return exit_status(start(here, *words)), output_of(here)


@pytest.mark.end_to_end
def test_a_matrix_killed_three_times_gives_the_table_of_an_undisturbed_one(here):
    words = (*MATRIX, "--models", "dual_slice_attention")
    status, said = execute(here, *words, "--output-dir", "undisturbed")
    assert status == 0, said
    expected = {name: (here / "undisturbed/normal_vs_abnormal" / name).read_bytes() for name in TABLES}
    moments = random.Random(time.time_ns())                       # another moment each time: any has to do
    killed = 0
    for _ in range(3):
        process = start(here, *words, "--output-dir", "killed")
        time.sleep(moments.uniform(0.5, 3))
        process.kill()
        killed += exit_status(process) == -signal.SIGKILL
    status, said = execute(here, *words, "--output-dir", "killed")
    assert status == 0, said
    assert killed and {name: (here / "killed/normal_vs_abnormal" / name).read_bytes() for name in TABLES} == expected


def test_a_second_process_is_refused_until_the_first_has_died(tmp_path):
    with held(tmp_path / ".lock") as process, pytest.raises(UserError) as refused:
        Study(tmp_path, []).run()
    assert "another process is working on it" in str(refused.value) and f"process {process} on " in str(refused.value)
    Study(tmp_path, []).run()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def parse(words):
    parser = cli.parser("")
    parser.add_argument("--output-dir")
    add_run_flags(parser, DUAL_ROUTE)
    args = parser.parse_args(words)
    return with_cache(settings.from_flags(RunConfig, args, base=DUAL_ROUTE), named=settings.given(args, EarSpec))


def test_the_command_lines_of_a_dry_run_give_the_runs_and_start_none(here, capsys):
    assert run(*MATRIX, "--seeds", "7,8", "--lr", "0.002", "--pooling", "max", "--dry-run") == 0
    said = capsys.readouterr().out.splitlines()
    lines = [shlex.split(line) for line in said if not line.startswith("#")]
    assert len(lines) == 2 * 2 * 2 and not (here / "outputs").exists()
    assert [line[:2] for line in lines] == [["python", "scripts/train_dual.py"]] * 8
    configs = [parse(line[2:]) for line in lines]
    assert [(c.data.pct, c.model.model, c.training.seed) for c in configs] == [
        (pct, model, seed) for pct in (20, 100) for model in ("dual_unet_3d", "dual_slice_attention") for seed in (7, 8)]
    for config, words in zip(configs, lines, strict=True):
        assert (config.training.lr, config.model.pooling, config.training.epochs) == (0.002, "max", 3)
        assert Job(here, config).command(DUAL_ROUTE)[2:-2] == words[2:-2]
    shown = dict(line[2:].split(": ", 1) for line in said if line.startswith("# "))
    assert "pct as below" in shown["data"] and "lr 0.002" in shown["training"] and "seed as below" in shown["training"]
    assert shown.pop("cache") == f"{configs[0].data.cache_dir}/{configs[0].ears.key}"
    for part, own in decisive_settings(configs[0]).items():
        assert all(f"{name.replace('_', '-')} " in shown[part] for name in own)


def test_more_data_means_fewer_epochs(here, capsys):
    assert run("run_experiments_dual", "--models", "dual_unet_3d", "--dry-run") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    configs = [parse(shlex.split(line)[2:]) for line in lines]
    assert [(c.data.pct, c.training.epochs) for c in configs] == [(1, 200), (20, 80), (100, 40)]


def test_a_failed_run_is_noted_and_does_not_end_the_others(here):
    tables.SPLIT.write(here / "artifacts/splits_dual/20pct/train.csv", tables.SPLIT.empty())       # nothing to learn from
    words = (*MATRIX, "--models", "dual_slice_attention", "--epochs", 1)
    status, said = execute(here, *words)
    assert status == cli.PARTLY, said
    runs = tables.RUNS.read(here / "outputs/experiments_dual/normal_vs_abnormal/runs.csv").set_index("pct")
    assert list(runs.status) == ["failed", "done"]
    assert "fewer than two classes" in runs.reason[20] and not np.isnan(runs.auroc[100])
    tables.SPLIT.write(here / "artifacts/splits_dual/20pct/train.csv",
                       tables.SPLIT.read(here / "artifacts/splits_dual/100pct/train.csv"))
    status, said = execute(here, *words)
    assert status == 0 and "100pct_dual_slice_attention_seed42: done before" in said


def test_a_run_whose_process_dies_is_a_failed_run(here):
    dies = Interruption("medical_fenlei.training.loop:Trainer.fit", (signal.SIGSEGV,))
    words = (*MATRIX, "--models", "dual_slice_attention", "--pcts", "100")
    assert exit_status(start(here, *words, interruptions=[dies])) == cli.PARTLY
    runs = tables.RUNS.read(here / "outputs/experiments_dual/normal_vs_abnormal/runs.csv")
    assert "SIGSEGV" in runs.reason[0]


def test_a_stop_by_signal_saves_and_the_same_command_goes_on(here):
    words = (*SMALL, "--splits-root", "artifacts/splits_dual", "--pct", 100, "--cache-dir", "cache/dual_volumes",
             "--seeds", "3", "--epochs", 400, "--patience", 0)
    command = [sys.executable, ROOT / "scripts/run_seeds_ear2d.py", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "epoch 2/" in line:
            process.terminate()
            break
    _, said = process.communicate(timeout=60)
    assert process.returncode == cli.STOPPED and "Traceback" not in said, said
    state, = json.loads(next((here / "outputs/ear2d_seeds").glob("*/state.json")).read_text()).values()
    assert state["status"] == "running" and list((here / "outputs/ear2d_seeds").glob("*/seed_3/checkpoints/last.pt"))


def test_a_study_of_several_tasks_sums_up_each_of_them(here, capsys):
    words = ("run_seeds_ear2d", *SMALL, "--splits-root", "artifacts/splits_dual", "--pct", 100, "--cache-dir",
             "cache/dual_volumes", "--seeds", "3,4", "--epochs", 1, "--label-task", "正常vs异常，cholesteatoma_vs_csoma")
    assert run(*words, "--dry-run") == 0
    assert "--label-task normal_vs_abnormal,cholesteatoma_vs_csoma" in capsys.readouterr().out
    status, said = execute(here, *words)
    assert status == 0, said
    folder = here / "outputs/ear2d_seeds/normal_vs_abnormal+cholesteatoma_vs_csoma_100pct_test_resnet"
    runs, summary = tables.RUNS.read(folder / "runs.csv"), tables.SUMMARY.read(folder / "summary.csv")
    assert runs[["run", "task"]].to_numpy().tolist() == [[f"seed_{seed}", task] for seed in (3, 4) for task in TWO]
    for task in TWO:
        own, of_task = runs[runs.task == task], summary[summary.task == task].set_index("metric")
        frames = [tables.PREDICTIONS.read(folder / f"seed_{seed}/reports/predictions_val_{task}.csv") for seed in (3, 4)]
        areas = [BinaryMeasures(f.y_true.to_numpy(), f.y_prob.to_numpy())(np.ones((1, len(f))))["auroc"][0] for f in frames]
        assert own.auroc.to_numpy() == pytest.approx(areas) and (own.ears == len(frames[0])).all()
        assert of_task["mean"]["auroc"] == pytest.approx(np.mean(areas))
        assert of_task["sd"]["auroc"] == pytest.approx(np.std(areas, ddof=1))
    assert (runs.ears[runs.task == TWO[0]].iloc[0], runs.ears[runs.task == TWO[1]].iloc[0]) == (12, 4)
    text = (folder / "summary.md").read_text(encoding="utf-8")
    assert [line.split(":")[0] for line in text.splitlines() if line.startswith("# ")] == [f"# {task}" for task in TWO]
    assert text.count("| 100 | test_resnet | 2 |") == 2


@pytest.mark.parametrize(("words", "says"), [
    (("--models", "dual_unet_3d,dual_net"), "dual_net"),
    (("--pcts", "all"), "--pcts"),
    (("--models", "dual_unet_3d", "--num-slices", 30, "--image-size", 32), "takes multiples of 16"),
    (("--label-task", "normal_vs_anything"), "--label-task"),
])
def test_an_invalid_matrix_is_refused_in_one_line(here, capfd, words, says):
    assert run("run_experiments_dual", *words) == cli.BAD_INPUT
    said = capfd.readouterr().err
    assert says in said and len(said.splitlines()) == 1 and not (here / "outputs").exists()


def test_a_folder_with_runs_of_other_settings_is_refused(here):
    config = with_cache(DUAL_ROUTE, named=())
    study = Study(here / "study", [Job(here / "study/one", config)])
    study._record({}, study.jobs[0], "done")
    study.run()                                                   # the same settings: nothing to do
    with pytest.raises(UserError, match="other settings"):
        Study(here / "study", [Job(here / "study/one", settings.changed(config, lr=0.5))]).run()
    Study(here / "study", [Job(here / "study/one", settings.changed(config, num_workers=99))]).run()


def test_files_and_runs_of_others_in_the_folder_are_refused_and_stay(here, capfd):
    words = ("run_seeds_ear2d", *SMALL, "--pct", 100, "--seeds", "0,1", "--cache-dir", CACHE)
    folder = here / "outputs/ear2d_seeds/normal_vs_abnormal_100pct_test_resnet"
    kept = folder / "seed_1/checkpoints/best.pt"
    kept.parent.mkdir(parents=True)
    kept.write_text("of another program")
    assert run(*words) == 2 and "holds checkpoints, which this command did not write" in capfd.readouterr().err
    assert kept.read_text() == "of another program" and not (folder / "seed_0").exists()
    shutil.rmtree(folder)
    assert run("train_ear2d", *SMALL[:2], "--pct", 100, *SMALL[4:], "--epochs", 1, "--seed", 1, "--cache-dir", CACHE,
               "--output-dir", folder / "seed_1") == 0
    capfd.readouterr()
    assert run(*words) == 2 and "seed_1 in it is a run with other settings" in capfd.readouterr().err


def test_the_mean_over_seeds_has_the_interval_of_new_patients_and_the_deviation_of_new_seeds():
    rng, task = np.random.default_rng(0), find_task("normal_vs_abnormal")
    truth = rng.integers(0, 2, 120)

    def predictions():
        score = 1 / (1 + np.exp(-(2 * truth - 1 + rng.normal(0, 1.5, 120))))
        frame = tables.PREDICTIONS.frame([
            {"exam_id": f"{i // 2:03d}", "side": ("left", "right")[i % 2], "patient_key": f"p{i // 2}", "label_code": 5 - 4 * t,
             "y_true": t, "y_prob": p, "y_pred": int(p >= 0.5), "top_slices": "", "top_slice_weights": ""}
            for i, (t, p) in enumerate(zip(truth, score, strict=True))])
        return frame.sample(frac=1, random_state=int(rng.integers(99)))    # the order of the rows is nobody's business

    three = [predictions() for _ in range(3)]
    intervals, spread = mean_over_seeds(three, task)
    areas = [BinaryMeasures(f.y_true.to_numpy(), f.y_prob.to_numpy())(np.ones((1, 120)))["auroc"][0] for f in three]
    assert intervals.values["auroc"].estimate == pytest.approx(np.mean(areas))
    assert spread["auroc"] == pytest.approx(np.std(areas, ddof=1))
    alone, nothing = mean_over_seeds(three[:1], task)
    width, wider = (i.values["auroc"].high - i.values["auroc"].low for i in (intervals, alone))
    assert width < wider and np.isnan(nothing["auroc"])
    with pytest.raises(UserError, match="same ears"):
        mean_over_seeds([three[0], three[1][:-2]], task)


def test_the_models_of_the_matrix_are_those_of_the_training_script():
    assert set(script("run_experiments_dual").MODELS) < set(settings.choices(type(DUAL_ROUTE.model), "model"))
    assert len(script("run_experiments_dual").MODELS) == 10


def test_seeds_at_once_give_the_runs_of_seeds_in_turn_and_a_page_with_the_ensemble(here):
    words = ("run_seeds_ear2d", *SMALL, "--splits-root", "artifacts/splits_dual", "--pct", 100, "--cache-dir",
             "cache/dual_volumes", "--seeds", "3,4", "--epochs", 1, "--device", "cpu")
    folders = []
    for name, jobs in (("in_turn", 1), ("at_once", 2)):
        status, said = execute(here, *words, "--output-dir", name, "--jobs", jobs)
        assert status == 0, said
        folders.append(next((here / name).glob("*")))
    in_turn, at_once = (tables.RUNS.read(folder / "runs.csv") for folder in folders)
    assert (at_once.status == "done").all() and "epoch 1/" not in said and "tail -f" in said
    np.testing.assert_allclose(at_once.auroc, in_turn.auroc, atol=1e-6)
    frames = [tables.PREDICTIONS.read(folders[1] / f"seed_{seed}/reports/predictions_val.csv") for seed in (3, 4)]
    mean = np.mean([frame.y_prob for frame in frames], axis=0)
    summary = tables.SUMMARY.read(folders[1] / "summary.csv").set_index("metric")
    expected = BinaryMeasures(frames[0].y_true.to_numpy(), mean)(np.ones((1, len(mean))))
    for name in ("auroc", "sensitivity", "f1"):
        assert summary.ensemble[name] == pytest.approx(expected[name][0])
        assert summary.ensemble_low[name] <= summary.ensemble[name] <= summary.ensemble_high[name]
    page = (folders[1] / "index.html").read_text(encoding="utf-8")
    assert 'href="seed_3/reports/report.html"' in page and (folders[1] / "seed_3/reports/report.html").is_file()
    assert "ensemble of 2" in (folders[1] / "summary.md").read_text(encoding="utf-8")


def test_stopped_seeds_that_run_at_once_are_all_saved_and_go_on(here):
    process = start(here, "run_seeds_ear2d", *SMALL, "--splits-root", "artifacts/splits_dual", "--pct", 100,
                    "--cache-dir", "cache/dual_volumes", "--seeds", "3,4", "--epochs", 400, "--patience", 0, "--jobs", 2)
    logs = "outputs/ear2d_seeds/*/seed_*/train.log"
    while sum("epoch 2/" in path.read_text() for path in here.glob(logs)) < 2:
        assert process.is_alive()
        time.sleep(0.05)
    process.terminate()
    assert exit_status(process) == cli.STOPPED and "Traceback" not in output_of(here), output_of(here)
    state = json.loads(next((here / "outputs/ear2d_seeds").glob("*/state.json")).read_text())
    assert [own["status"] for own in state.values()] == ["running"] * 2
    assert len(list((here / "outputs/ear2d_seeds").glob("*/seed_*/checkpoints/last.pt"))) == 2


def test_each_seed_is_calibrated_on_its_tune_set_before_the_table_and_the_ensemble_decides_at_the_mean_threshold(here):
    words = ("run_seeds_ear2d", *SMALL, "--pct", 100, "--cache-dir", CACHE, "--seeds", "3,4", "--epochs", 1)
    assert execute(here, *words)[0] == 0
    folder, = (here / "outputs/ear2d_seeds").glob("*")
    assert "calibrated and decided at half" in (folder / "summary.md").read_text()               # its tune set is small
    frames, thresholds = [], []
    for seed in (3, 4):
        own = folder / f"seed_{seed}"
        assert run("eval_ear2d", "--checkpoint", own / "checkpoints/best.pt", "--point", "youden", "--pictures", 0) == 0
        fitted = json.loads((own / "checkpoints/best.calibration.json").read_text())
        metrics = json.loads((own / "reports/metrics_val.json").read_text())
        assert metrics["calibrated"]
        assert metrics["calibration"] == fitted["tasks"]["normal_vs_abnormal"] | {"point": "youden"}
        assert set(fitted["exams"]) == set(tables.SPLIT.read(here / "artifacts/splits_dual/100pct/tune.csv").exam_id)
        frames.append(tables.PREDICTIONS.read(own / "reports/predictions_val.csv"))
        thresholds.append(metrics["calibration"]["points"]["youden"])
    assert run(*words, "--summarize") == 0
    margin = np.mean([frame.y_prob - threshold for frame, threshold in zip(frames, thresholds, strict=True)], axis=0)
    summary = tables.SUMMARY.read(folder / "summary.csv").set_index("metric")
    assert summary.ensemble["accuracy"] == pytest.approx(np.mean((margin >= 0) == frames[0].y_true))
    assert "calibrated and decided at youden" in (folder / "summary.md").read_text()
    assert "calibrated and decided at youden" in (folder / "index.html").read_text()

    best = folder / "seed_4/checkpoints/best.pt"
    assert run("eval_ear2d", "--checkpoint", best, "--uncalibrated", "--pictures", 0) == 0
    page = (folder / "seed_4/reports/report.html").read_text()
    assert "they sum up another evaluation of this run" in page and "± " not in page
    assert "± " in (folder / "seed_3/reports/report.html").read_text()
    assert run(*words, "--summarize") == cli.BAD_INPUT
    assert run("eval_ear2d", "--checkpoint", best, "--point", "youden", "--pictures", 0) == 0
    assert run(*words, "--summarize") == 0 and "± " in (folder / "seed_4/reports/report.html").read_text()


def test_without_a_tune_set_that_can_be_calibrated_on_all_seeds_stay_uncalibrated_and_say_why(here):
    tune, val = (tables.SPLIT.read(here / f"artifacts/splits_dual/100pct/{name}.csv") for name in ("tune", "val"))
    manifest = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv")
    shared = manifest.patient_key.where(manifest.exam_id != tune.exam_id[0], val.patient_key[0])
    tables.MANIFEST.write(here / "artifacts/manifest_ears.csv", manifest.assign(patient_key=shared))
    assert run("run_seeds_ear2d", *SMALL, "--pct", 100, "--cache-dir", CACHE, "--seeds", "3", "--epochs", 1) == 0
    folder, = (here / "outputs/ear2d_seeds").glob("*")
    metrics = json.loads((folder / "seed_3/reports/metrics_val.json").read_text())
    assert not metrics["calibrated"] and metrics["calibration"]["point"] == "half"
    assert any(text.startswith("not calibrated: ") and "share 1 patients" in text for text in metrics["warnings"])
    assert "not calibrated and decided at half" in (folder / "summary.md").read_text()
