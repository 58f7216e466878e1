"""Find the training ears most similar to an ear, for a reader to compare with.

    python scripts/retrieve_neighbors_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --exam-id <id> --side left
    python scripts/retrieve_neighbors_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --split val

Neighbors are nearest by the network's embedding (cosine distance), never of the same patient. Writes to
outputs/<run>/reports/neighbors/: a picture of each ear beside its neighbors (<id>_<side>.png), and neighbors_<set>.csv, or
<id>_<side>.csv for one ear. With --split, prints how many neighbors share the ear's label, compared with chance (the label's
share of the training ears). The embeddings of the training set are kept there until network or data change.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, open_checkpoint
from medical_fenlei.config import EAR2D
from medical_fenlei.errors import UserError
from medical_fenlei.vocabulary import SETS, SIDES


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("label_task",))
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--exam-id", help="query one ear: its exam")
    which.add_argument("--split", choices=SETS, help="query every labelled ear of this set")
    parser.add_argument("--side", choices=SIDES, help="query one ear: its side of the patient")
    cli.add_flag(parser, "--top-k", "--most", type=cli.int_at_least(1), default=5, metavar="K",
                 help="neighbors of each ear (default: %(default)s)")
    parser.add_argument("--pictures", type=cli.int_at_least(0), metavar="N", help="maximum number of pictures (default: all)")
    parser.add_argument("--out-dir", type=Path, metavar="DIR", help="output folder (default: outputs/<run>/reports/neighbors)")
    cli.add_shared_flags(parser, "resamples")
    args = parser.parse_args(argv)
    if bool(args.exam_id) != bool(args.side):
        raise UserError("--exam-id and --side: each needs the other")
    sets = ("train", args.split) if args.split else ("train",)
    network, data = open_checkpoint(args, kind=EAR2D, sets=sets, every_label=True,
                                    ear=(args.exam_id, args.side) if args.exam_id else None)

    from medical_fenlei.embeddings.retrieval import RetrievalOptions, retrieve_for_ear, retrieve_for_set
    from medical_fenlei.metrics.interval_table import interval_table

    out = args.out_dir or network.run.reports / "neighbors"
    options = RetrievalOptions(top_k=args.top_k, pictures=args.pictures, batch_size=args.batch_size)
    if args.split:
        found = retrieve_for_set(network, data, args.split, out, options)
    else:
        found = retrieve_for_ear(network, data, args.exam_id, args.side, out, options)
    cli.say(f"{len(found.query)} ears, each against {len(found.train)} training ears; {found.pictures} pictures")
    if args.split:
        intervals = found.agreement(n_resamples=args.resamples)
        cli.say(f"neighbors with the ear's label (share), the nearest one (first), a training ear at random (chance), "
                f"share / chance (ratio); {intervals.patients} patients")
        cli.show(interval_table(intervals))
        for text in intervals.warnings:
            cli.warn(text)
    else:
        cli.show(found.neighbors[["rank", "neighbor_exam_id", "neighbor_side", "neighbor_label_code", "distance"]].round(3))
    cli.say(f"wrote {found.csv}; look into {out}")
    return cli.report_rejects(found.rejects, found.csv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
