"""Time from DICOM to the answer for one exam, against the sum of its unavoidable parts.

    python tools/bench_predict.py                  # some 10 minutes on two cores
    python tools/bench_predict.py --quick          # fewer exams and slices, a smaller network: under a minute
    python tools/bench_predict.py --against 68055be  # only how much faster than that commit, some 5 minutes

Drawn exams of 170 slices of 512 x 512 with a scout; a resnet18 with random weights, 32 slices of 224 x 224 per ear, both ears,
default preprocessing. One process, one thread, warm disk cache.
  exam_s               the whole command predict_ear2d per exam, without imports and opening the checkpoint
  share_<part>         share of the sum of the parts in per cent: headers (each file's read once), decoding (each used slice
                       once), cutting (localizing and cutting the ears from decoded slices), network (the forward pass of both
                       ears), explanation (class activation maps of both ears, made from that pass)
  predict_vs_parts     exam_s over the sum of these parts, measured in turn (lower is better)
  predict_vs_parts.without_explanation   the same with --top-k 0, over the other parts
  again_vs_first       the command on exams that are answered already, over the first time
  speedup_vs_before    time of the other commit over ours, with explanations, each with its own default methods
Prints a table and, with --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
"""
import contextlib
import io
import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from builds import ROOT, Worker, checkout
from measuring import figure, in_turn, seconds

from medical_fenlei import cli
from medical_fenlei.config import EAR2D, ModelConfig, RunConfig, TrainConfig
from medical_fenlei.dicom.header import read_headers_of
from medical_fenlei.dicom.volume import Series, open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.errors import CheckFailed
from medical_fenlei.explanations.maps import ExplanationRequest, explain_pass, look_for
from medical_fenlei.files import write_json
from medical_fenlei.ingest.exams import find_loose_exams
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.models.build import build_model
from medical_fenlei.new_exams.predictor import Predictor
from medical_fenlei.new_exams.report import write_answers
from medical_fenlei.phantom.hospital import sample_acquisition
from medical_fenlei.phantom.population import sample_population
from medical_fenlei.phantom.scanner import acquire
from medical_fenlei.phantom.series import SCOUT, SeriesFacts, write_series
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.spatial import Affine
from medical_fenlei.trained.network import TrainedNetwork, open_network
from medical_fenlei.training.checkpoint import Checkpoint, write_checkpoint
from medical_fenlei.training.predict import forward_blocks

TOP = 4
PARTS = ("headers", "decoding", "cutting", "network", "explanation")


def write_exams(folder: Path, exams: int, slices: int) -> None:
    """Write drawn exams, each with a series and a scout."""
    spec = HospitalSpec(num_exams=max(4, exams), matrix=512, slices=slices)
    for exam in sample_population(spec.num_exams, spec.seed)[:exams]:
        acquisition, rng = sample_acquisition(exam, spec)
        scan, affine = acquisition.scan, acquisition.affine
        hu = acquire(acquisition.draw(affine, scan.shape).hu, scan, rng)
        facts = SeriesFacts(patient=exam.patient, exam_id=exam.exam_id, date=exam.date, number=2, description="bench")
        write_series(folder / exam.exam_id / "SE2", hu, affine, scan, facts, rng)
        scout = replace(facts, number=1, image_type=SCOUT)
        turned = Affine.from_steps([affine.step(1), -affine.step(0), affine.step(2)], affine.origin)
        write_series(folder / exam.exam_id / "SE1", hu[:1], turned, replace(scan, stored_order="forward"), scout, rng)


def write_network(path: Path, backbone: str) -> TrainedNetwork:
    """Write the checkpoint of a network with random weights, and open it."""
    config = RunConfig(model=ModelConfig(backbone=backbone), training=TrainConfig(precision="fp32"))
    torch.manual_seed(0)
    weights = build_model(config.model, shape=config.input_shape, outputs=1).state_dict()
    write_checkpoint(path, Checkpoint(kind=EAR2D, config=config, weights=weights, epoch=1, metric="", value=0.0))
    return open_network(path, kind=EAR2D, device="cpu")


class Decoded(Series):
    """A series that keeps each decoded slice in memory."""

    def __init__(self, series: Series) -> None:
        self.__dict__.update(vars(series))
        self.kept: dict[int, np.ndarray] = {}

    def slice(self, k: int) -> np.ndarray:
        """Return slice k, decoded once."""
        if k not in self.kept:
            self.kept[k] = super().slice(k)
        return self.kept[k]


def whole(base: Path, trained: TrainedNetwork, out: Path, top: int = TOP) -> int:
    """Do the work of the command; return the number of ears it answered."""
    rules = SeriesRules()
    request = ExplanationRequest(methods=("hirescam",), top=top) if top else None
    predictor = Predictor.of(trained, tasks=trained.tasks, rules=rules, request=request)
    with contextlib.redirect_stderr(io.StringIO()):
        exams, strays = find_loose_exams(base, rules=rules, workers=1)
        done = write_answers(out, base, exams, strays, predictor, workers=1)
    return sum(1 for answer in done.answers for ear in answer.ears if ear.tasks)


def first_time(base: Path, trained: TrainedNetwork, top: int) -> float:
    """Return the seconds of the command with a fresh output folder."""
    with tempfile.TemporaryDirectory() as folder:
        return seconds(lambda: whole(base, trained, Path(folder) / "out", top))


def part_seconds(exam: Path, trained: TrainedNetwork, *, explained: bool) -> dict[str, float]:
    """Return the seconds of each part for one exam."""
    paths = sorted(path for path in exam.rglob("*") if path.is_file())
    series = open_series(exam / "SE2")
    decoded = Decoded(series)
    volume = np.stack([ear.volume for ear in prepare_ears(decoded, trained.config.ears).values()])

    request, seen = ExplanationRequest(methods=("hirescam",), top=TOP), []

    def forward() -> None:
        if explained:
            seen.append(look_for(trained, volume, request))
        else:
            with torch.inference_mode():
                forward_blocks(trained.model, torch.from_numpy(volume), trained.config.augment)

    def maps() -> None:
        explain_pass(seen[0], [Affine(np.eye(4))] * len(volume), trained.tasks[0], request)

    return {"headers": seconds(lambda: [read_headers_of(path) for path in paths]),
            "decoding": seconds(lambda: [series.slice(k) for k in decoded.kept]),
            "cutting": seconds(lambda: prepare_ears(decoded, trained.config.ears)),
            "network": seconds(forward), "explanation": seconds(maps) if explained else 0.0}


def parts_seconds(base: Path, trained: TrainedNetwork, *, explained: bool) -> dict[str, float]:
    """Return the seconds of each part, summed over all exams."""
    exams = [part_seconds(exam, trained, explained=explained) for exam in sorted(base.iterdir())]
    return {part: sum(own[part] for own in exams) for part in PARTS}


WORK = ("[tool.first_time(path, trained, *([net] if tool.first_time.__code__.co_argcount == 4 else []), tool.TOP)"
        " for net in [path.parent / 'net.pt'] for trained in [tool.write_network(net, '{backbone}')]][0]")
"""Seconds of the command, in a process of either build; in older ones the function also takes the checkpoint's path."""


def against(commit: str, exams: int, slices: int, backbone: str, pairs: int) -> list[dict[str, object]]:
    """Return how many times as fast as another commit this build answers exams, one thread each."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["OMP_NUM_THREADS"] = "1"
        builds = []
        for name, tree in (("now", ROOT), ("before", stack.enter_context(checkout(commit)))):
            write_exams(folder / name / "new", exams, slices)
            work = Worker(tree, Path(__file__).stem, WORK.format(backbone=backbone))
            builds.append(partial(stack.enter_context(work), folder / name / "new"))
        now, before = builds
        return [figure("speedup_vs_before", [a / b for a, b in in_turn(before, now, pairs)], "ratio", "higher")]


def measured(exams: int, slices: int, backbone: str, pairs: int) -> list[dict[str, object]]:
    """Return the figures of this build."""
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        base, checkpoint = Path(folder) / "new", Path(folder) / "net.pt"
        cli.say(f"{exams} exams drawn in {seconds(lambda: write_exams(base, exams, slices)):.0f} s")
        trained = write_network(checkpoint, backbone)
        if (ears := whole(base, trained, Path(folder) / "out")) != 2 * exams:
            raise CheckFailed(f"got answers for {ears} ears, expected {2 * exams}")
        of_parts: list[dict[str, float]] = []

        def parts() -> float:
            of_parts.append(parts_seconds(base, trained, explained=True))
            return sum(of_parts[-1].values())

        pairs_of = in_turn(lambda: first_time(base, trained, TOP), parts, pairs)
        found.append(figure("exam_s", [one / exams for one, _ in pairs_of], "s", "lower"))
        for part in PARTS:
            shares = [100 * own[part] / sum(own.values()) for own in of_parts[1:]]
            found.append(figure(f"share_{part}", shares, "%", "lower"))
        found.append(figure("predict_vs_parts", [one / other for one, other in pairs_of], "ratio", "lower"))
        others = in_turn(lambda: first_time(base, trained, 0),
                         lambda: sum(parts_seconds(base, trained, explained=False).values()), pairs)
        found.append(figure("predict_vs_parts.without_explanation", [one / other for one, other in others], "ratio", "lower"))
        again = [seconds(lambda: whole(base, trained, Path(folder) / "out")) / one for one, _ in pairs_of]
        found.append(figure("again_vs_first", again, "ratio", "lower"))
    return found


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer exams and slices, a smaller network: under a minute")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit of the project, and nothing else")
    args = parser.parse_args()
    exams, slices, backbone, pairs = (1, 40, "test_resnet", 2) if args.quick else (2, 170, "resnet18", 5)
    torch.set_num_threads(1)
    found = against(args.against, exams, slices, backbone, pairs) if args.against else measured(exams, slices, backbone, pairs)
    if args.json:
        write_json(args.json, found)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
