"""What an exam costs from DICOM to its answer, and how much of it is work that nobody can leave out.

    python tools/bench_predict.py                  # some 10 minutes on two cores
    python tools/bench_predict.py --quick          # fewer exams and slices, a smaller network: under a minute

Exams of 170 slices of 512 x 512 with a scout, drawn as a scanner would store them; a resnet18 with random weights, 32 slices of
224 x 224 an ear, both ears, the preprocessing's defaults. One process, one thread, the disk's cache warm.
  exam_s               the whole command predict_ear2d, an exam (its imports and the opening of the checkpoint left out)
  share_<part>         of the sum of the bare parts, in per cent: headers (each file's read once), decoding (each slice that is
                       used, once), cutting (finding the ears and cutting them, slices decoded before), network (its forward
                       pass over both ears), explanation (class activation maps of both ears)
  predict_vs_parts     exam_s over the sum of these parts, measured in turn (lower is better)
  predict_vs_parts.without_explanation   the same with --top 0, over the other parts
  again_vs_first       the command on exams that were answered before, over the first time
Prints a table and, with --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
"""
import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measuring import figure, in_turn, seconds

from medical_fenlei import cli
from medical_fenlei.config import EAR2D, ModelConfig, RunConfig, TrainConfig
from medical_fenlei.dicom.header import read_headers_of
from medical_fenlei.dicom.volume import Series, open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.errors import CheckFailed
from medical_fenlei.explanations.maps import explain
from medical_fenlei.files import write_json
from medical_fenlei.ingest.exams import find_loose_exams
from medical_fenlei.ingest.series_choice import SeriesRules
from medical_fenlei.models.build import build_model
from medical_fenlei.new_exams.page import write_answers
from medical_fenlei.new_exams.predictor import Predictor
from medical_fenlei.phantom.head import draw_head
from medical_fenlei.phantom.hospital import examine
from medical_fenlei.phantom.population import draw_population
from medical_fenlei.phantom.scanner import acquire
from medical_fenlei.phantom.series import SCOUT, SeriesFacts, write_series
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.trained.network import Trained, open_trained
from medical_fenlei.training.checkpoint import Checkpoint, write_checkpoint
from medical_fenlei.training.predict import look

TOP = 4
PARTS = ("headers", "decoding", "cutting", "network", "explanation")


def write_exams(folder: Path, exams: int, slices: int) -> None:
    spec = HospitalSpec(num_exams=max(4, exams), matrix=512, slices=slices)
    for exam in draw_population(spec.num_exams, spec.seed)[:exams]:
        seen, rng = examine(exam, spec)
        hu = acquire(draw_head(exam.person, seen.changes, seen.pose, seen.affine, seen.scan.shape).hu, seen.scan, rng)
        facts = SeriesFacts(patient=exam.patient, exam_id=exam.exam_id, date=exam.date, number=2, description="bench")
        write_series(folder / exam.exam_id / "SE2", hu, seen.affine, seen.scan, facts, rng)
        scout = replace(facts, number=1, image_type=SCOUT)
        turned = seen.affine.copy()
        turned[:3, 0], turned[:3, 1] = seen.affine[:3, 1], -seen.affine[:3, 0]
        write_series(folder / exam.exam_id / "SE1", hu[:1], turned, replace(seen.scan, stored_order="forward"), scout, rng)


def write_network(path: Path, backbone: str) -> Trained:
    config = RunConfig(model=ModelConfig(backbone=backbone), training=TrainConfig(precision="fp32"))
    torch.manual_seed(0)
    weights = build_model(config.model, shape=config.input_shape, outputs=1).state_dict()
    write_checkpoint(path, Checkpoint(kind=EAR2D, config=config, weights=weights, epoch=1, metric="", value=0.0))
    return open_trained(path, kind=EAR2D, device="cpu")


class Decoded(Series):
    """A series whose slices were decoded before; counts which are used."""

    def __init__(self, series: Series) -> None:
        self.__dict__.update(vars(series))
        self.kept: dict[int, np.ndarray] = {}

    def slice(self, k: int) -> np.ndarray:
        if k not in self.kept:
            self.kept[k] = super().slice(k)
        return self.kept[k]


def whole(base: Path, trained: Trained, checkpoint: Path, out: Path, top: int = TOP) -> int:
    """What the command does; returns how many ears it answered."""
    rules = SeriesRules()
    predictor = Predictor.of(trained, checkpoint, tasks=trained.tasks, rules=rules, point=None, top=top, force=False)
    with contextlib.redirect_stderr(io.StringIO()):
        exams, strays = find_loose_exams(base, rules=rules, workers=1)
        done = write_answers(out, base, exams, strays, predictor, checkpoint, workers=1)
    return sum(1 for answer in done.answers for ear in answer.ears if ear.tasks)


def first_time(base: Path, trained: Trained, checkpoint: Path, top: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return seconds(lambda: whole(base, trained, checkpoint, Path(folder) / "out", top))


def bare(base: Path, trained: Trained, *, explained: bool) -> dict[str, float]:
    """Seconds of each part, all exams together."""
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(part: str, work: Callable[[], None]) -> None:
        spent[part] += seconds(work)

    for exam in sorted(base.iterdir()):
        paths = sorted(path for path in exam.rglob("*") if path.is_file())
        timed("headers", lambda paths=paths: [read_headers_of(path) for path in paths])       # type: ignore[misc]
        series = open_series(exam / "SE2")
        used = Decoded(series)
        ears = prepare_ears(used, trained.config.ears)
        timed("decoding", lambda series=series, used=used: [series.slice(k) for k in used.kept])       # type: ignore[misc]
        timed("cutting", lambda used=used: prepare_ears(used, trained.config.ears))           # type: ignore[misc]
        volume = np.stack([ear.volume for ear in ears.values()])

        def forward(volume: np.ndarray = volume) -> None:
            with torch.inference_mode():
                look(trained.model, torch.from_numpy(volume), trained.config.augment)

        def maps(volume: np.ndarray = volume) -> None:
            for ear in volume:
                explain(trained, ear, np.eye(4), trained.tasks[0], methods=("hirescam",), top=TOP)

        timed("network", forward)
        if explained:
            timed("explanation", maps)
    return spent


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer exams and slices, a smaller network: under a minute")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    exams, slices, backbone, pairs = (1, 40, "test_resnet", 2) if args.quick else (2, 170, "resnet18", 5)
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        base, checkpoint = Path(folder) / "new", Path(folder) / "net.pt"
        cli.say(f"{exams} exams drawn in {seconds(lambda: write_exams(base, exams, slices)):.0f} s")
        trained = write_network(checkpoint, backbone)
        if (ears := whole(base, trained, checkpoint, Path(folder) / "out")) != 2 * exams:
            raise CheckFailed(f"got answers for {ears} ears, expected {2 * exams}")
        of_parts: list[dict[str, float]] = []

        def parts() -> float:
            of_parts.append(bare(base, trained, explained=True))
            return sum(of_parts[-1].values())

        pairs_of = in_turn(lambda: first_time(base, trained, checkpoint, TOP), parts, pairs)
        found.append(figure("exam_s", [one / exams for one, _ in pairs_of], "s", "lower"))
        for part in PARTS:
            shares = [100 * own[part] / sum(own.values()) for own in of_parts[1:]]
            found.append(figure(f"share_{part}", shares, "%", "lower"))
        found.append(figure("predict_vs_parts", [one / other for one, other in pairs_of], "ratio", "lower"))
        others = in_turn(lambda: first_time(base, trained, checkpoint, 0),
                         lambda: sum(bare(base, trained, explained=False).values()), pairs)
        found.append(figure("predict_vs_parts.without_explanation", [one / other for one, other in others], "ratio", "lower"))
        again = [seconds(lambda: whole(base, trained, checkpoint, Path(folder) / "out")) / one for one, _ in pairs_of]
        found.append(figure("again_vs_first", again, "ratio", "lower"))
    if args.json:
        write_json(args.json, found)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
