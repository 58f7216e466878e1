"""Wrong paths and names end a command before torch is imported; the line lists what is there, and nothing is written."""
import json
import subprocess
import sys

import pytest
from helpers.commands import ROOT
from helpers.small_study import CACHE, SPEC, codes_in_turn, write_study

from medical_fenlei import settings
from medical_fenlei.config import EAR_ROUTE
from medical_fenlei.runs import Run
from medical_fenlei.training.checkpoint_file import FOOTER, MARK

BEST, FIRST = "outputs/a/checkpoints/best.pt", "exam_a"
STARTED = ("--checkpoint", BEST)
NO_RUN = "--checkpoint none.pt: no such file; there are: outputs/a/checkpoints/best.pt"
ONE_EAR = ("--exam-id", FIRST, "--side", "left")
REFUSED = [
    ("train_ear2d", ("--splits-root", "none"), "--splits-root none --pct 20: no none/20pct/train.csv; there are: no splits; "
     "make_splits_dual makes them"),
    ("train_ear2d", ("--splits-root", "artifacts/splits"), "; there are: no splits in it, but in --splits-root "
     "artifacts/splits_dual\n"),
    ("train_ear2d", ("--pct", "100", "--manifest-csv", "artifacts/Manifest_ear.csv"), "build_manifest_ears writes it; near "
     "names: artifacts/manifest_ears.csv\n"),
    ("train_ear2d", ("--pct", "7"), "there are: 100pct"),
    ("train_dual", ("--pct", "100", "--manifest-csv", "none.csv"), "none.csv: no such file (manifest, one row per ear); "
     "build_manifest_ears writes it"),
    ("train_ear2d", ("--pct", "100", "--cache-dir", "none"), "--dicom-base data/medical_data_2 to prepare them from; where it "
     "is, python scripts/build_cache_ears.py"),
    ("train_ear2d", ("--pct", "100", "--label-task", "normal"), "expected one of six_class"),
    ("train_ear2d", ("--pct", "100", "--backbone-weights", "none.pt"), "--backbone-weights none.pt: no such file"),
    ("train_ear2d", ("--pct", "100", "--output-dir", "outputs/a"), "--output-dir outputs/a: contains a run already"),
    ("train_ear2d", ("--pct", "100", "--output-dir", "outputs"), "--output-dir outputs: is a folder of several runs, expected "
     "that of one run, such as outputs/NAME\n"),
    ("train_ear2d", ("--pct", "100", "--output-dir", "."), "--output-dir .: is a folder of several runs"),
    ("gradcam_ear2d", (*STARTED, "--exam-id", FIRST, "--side", "lft"), "(choose from 'left', 'right')"),
    ("retrieve_neighbors_ear2d", (*STARTED, "--exam-id", FIRST, "--side", "lft"), "(choose from 'left', 'right')"),
    ("train_ear2d", ("--resume", "outputs/none"), "is outputs/none a run? there are: outputs/a"),
    ("run_seeds_ear2d", ("--pct", "7"), "there are: 100pct"),
    ("run_experiments_dual", ("--pcts", "7"), "there are: 100pct"),
    *((name, ("--checkpoint", "none.pt", *more), NO_RUN) for name, more in {
        "eval_ear2d": (), "audit_run": (), "calibrate_ear2d": (), "extract_embeddings_ear2d": (), "gradcam_ear2d": ("--all",),
        "gradcam_dual": ("--all",),
        "retrieve_neighbors_ear2d": ("--split", "val"), "predict_ear2d": ("--dicom", ".", "--out-dir", "../answers"),
    }.items()),
    ("eval_ear2d", ("--checkpoint", "outputs/a"), f"--checkpoint outputs/a: is a folder; name {BEST}"),
    ("eval_ear2d", (*STARTED, "--split", "test"), "--split test: artifacts/splits_dual --pct 100 has no test set; "
     "make_splits_dual --test-ratio makes one"),
    ("eval_ear2d", (*STARTED, "--label-task", "six_class"), "expected one of normal_vs_abnormal"),
    ("calibrate_ear2d", (*STARTED, "--splits-root", "none"), "make_splits_dual makes them"),
    ("gradcam_ear2d", (*STARTED, "--exam-id", "exam_A", "--side", "left"), "near ids: exam_"),
    ("gradcam_ear2d", (*STARTED, *ONE_EAR, "--method", "gradcm"), "--method: got 'gradcm', expected some of integrated, "),
    ("retrieve_neighbors_ear2d", (*STARTED, "--exam-id", "none", "--side", "left"), "has no left ear of that exam"),
    ("predict_ear2d", (*STARTED, "--dicom", "none", "--out-dir", "answers"), "--dicom none: no such folder"),
    ("predict_ear2d", (*STARTED, "--dicom", "artifact/splits_dual", "--out-dir", "answers"), "--dicom artifact/splits_dual: no "
     "such folder; near names: artifacts/splits_dual\n"),
    ("predict_ear2d", (*STARTED, "--dicom", "artifacts", "--out-dir", "answers"), "holds no readable CT image"),
    ("predict_dual", STARTED, "dataset_index.csv: no such file (exams to predict, one row per exam); build_index writes it"),
    ("predict_dual", (*STARTED, "--index-csv", "index.csv"), "holds a network of kind ear2d, expected dual; predict_ear2d"),
    ("fewshot_code4", (), "no such file; extract_embeddings_ear2d writes it"),
]
RUN_ALL = """
import contextlib, io, json, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        assert name not in ("torch", "timm", "torchvision"), f"{name} was imported"
sys.meta_path.insert(0, NoTorch())
from helpers.commands import run
said = []
for name, words in json.load(sys.stdin):
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = run(name, *words)
        except AssertionError as failed:
            status = str(failed)
    said.append((status, error.getvalue()))
print(json.dumps(said))
"""


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if ".matplotlib" not in str(path)}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What each of REFUSED said, in a study with a run whose weights nobody reads; and the files before and after."""
    here = tmp_path_factory.mktemp("study")
    write_study(here, {"train": codes_in_turn("abcdef"), "tune": codes_in_turn("tu", 1), "val": codes_in_turn("xyz", 2)})
    run = Run(here / "outputs/a")
    run.checkpoint("best").parent.mkdir(parents=True)
    run.checkpoint("best").write_bytes(b"\0" * 9 + MARK + b"0" * (FOOTER - len(MARK)))
    own = settings.changed(EAR_ROUTE, pct=100, cache_dir=CACHE, num_slices=SPEC.num_slices, image_size=SPEC.image_size)
    run.write_config(settings.to_json(own), {})
    (here / "index.csv").write_text("exam_id,series_relpath\nexam_a,exam_a/bone\n")
    before = tree(here)
    said = subprocess.run([sys.executable, "-c", RUN_ALL], input=json.dumps([case[:2] for case in REFUSED]), text=True,
                          capture_output=True, cwd=here, env={"PATH": "", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"})
    assert said.returncode == 0, said.stderr
    return dict(zip(range(len(REFUSED)), json.loads(said.stdout), strict=True)), before, tree(here)


@pytest.mark.parametrize("case", range(len(REFUSED)), ids=lambda n: f"{REFUSED[n][0]} {' '.join(REFUSED[n][1])}")
def test_a_wrong_path_or_name_is_one_line_that_says_what_is_there_before_torch_is_imported(case, refusals):
    status, error = refusals[0][case]
    assert status == 2 and REFUSED[case][2] in error and len(error.splitlines()) == 1, (status, error)


def test_a_command_that_fails_its_checks_writes_nothing(refusals):
    assert refusals[1] == refusals[2]
