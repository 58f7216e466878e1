"""Find the training ears most similar to an ear, for a reader to compare with.

    python scripts/retrieve_neighbors_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --exam-id <id> --side left
    python scripts/retrieve_neighbors_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --split val

Neighbors are nearest by the network's embedding (cosine distance), never of the same patient. Writes to
outputs/<run>/reports/neighbors/: a picture of each ear beside its neighbors (<id>_<side>.png), and neighbors_<set>.csv, or
<id>_<side>.csv for one ear. With --split, prints how many neighbors share the ear's label, compared with chance (the label's
share of the training ears). The embeddings of the training set are kept there until network or data change. --cohort NAME:
patients of another hospital (eval_ear2d), all of them or one ear, beside the training ears of the run; their files are in
outputs/<run>/reports/neighbors_<NAME>/.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, add_set_flags, open_checkpoint
from medical_fenlei.config import EAR2D
from medical_fenlei.errors import UserError
from medical_fenlei.vocabulary import SETS, SIDES, plural


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("label_task",))
    parser.add_argument("--exam-id", help="query one ear: its exam")
    parser.add_argument("--side", choices=[str(side) for side in SIDES], help="query one ear: its side of the patient")
    add_set_flags(parser, choices=SETS, does="query", default=None)
    cli.add_flag(parser, "--top-k", "--most", type=cli.int_at_least(1), default=5, metavar="K",
                 help="neighbors of each ear (default: %(default)s)")
    parser.add_argument("--pictures", type=cli.int_at_least(0), metavar="N", help="maximum number of pictures (default: all)")
    parser.add_argument("--out-dir", type=Path, metavar="DIR", help="output folder (default: outputs/<run>/reports/neighbors)")
    cli.add_shared_flags(parser, "resamples")
    args = parser.parse_args(argv)
    if bool(args.exam_id) != bool(args.side):
        raise UserError("--exam-id and --side: each needs the other")
    if args.exam_id and args.split:
        raise UserError("--split: queries every ear of a set; an exam is found whatever its set")
    if not (args.exam_id or args.split or args.cohort):
        raise UserError("name what to query: --exam-id and --side, --split, or --cohort")
    of_set = None if args.exam_id else args.cohort or args.split
    own = () if args.cohort else ("train",)                      # the manifest of a cohort has no training ears
    network, data = open_checkpoint(args, kind=EAR2D, job="retrieve_neighbors", sets=(*own, of_set) if of_set else own,
                                    every_label=True, exam=(args.exam_id, (args.side,)) if args.exam_id else None)

    from medical_fenlei.embeddings.retrieval import RetrievalOptions, retrieve_for_ear, retrieve_for_set
    from medical_fenlei.metrics.interval_table import interval_table

    kept = network.run.reports / "neighbors"
    out = args.out_dir or (kept.with_name(f"neighbors_{args.cohort}") if args.cohort else kept)
    options = RetrievalOptions(top_k=args.top_k, pictures=args.pictures, batch_size=args.batch_size,
                               kept=args.out_dir or kept)
    if of_set:
        found = retrieve_for_set(network, data, of_set, out, options)
    else:
        found = retrieve_for_ear(network, data, args.exam_id, args.side, out, options, cohort=args.cohort)
    for text in found.notes:
        cli.warn(text)
    cli.say(f"{plural(len(found.query), 'ear')}, each against {plural(len(found.train), 'training ear')}; "
            f"{plural(found.pictures, 'picture')}")
    if of_set:
        intervals = found.agreement(n_resamples=args.resamples)
        cli.say(f"neighbors with the ear's label (share), the nearest one (first), a training ear at random (chance), "
                f"share / chance (ratio); {plural(intervals.patients, 'patient')}")
        cli.show(interval_table(intervals))
        for text in intervals.warnings:
            cli.warn(text)
    else:
        cli.show(found.neighbors[["rank", "neighbor_exam_id", "neighbor_side", "neighbor_label_code", "distance"]].round(3))
    cli.say(f"wrote {found.csv}; look into {out}")
    return cli.report_rejects(found.rejects, found.csv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
