"""The training cases that a trained ear network finds most like an ear: what a reader can look up beside a score.

    python scripts/retrieve_neighbors_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --exam-id <id> --side left
    python scripts/retrieve_neighbors_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --split val

Nearest by the network's embedding (cosine distance), never of the same patient. Writes to outputs/<run>/reports/neighbors/: a
picture of each ear beside its neighbours (<id>_<side>.png), and neighbors_<set>.csv, of one ear <id>_<side>.csv. With --split
it says how many neighbours share the ear's label, against chance (the label's share of the training ears). The embeddings of
the training set are computed once and kept there, until network or data change.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, open_checkpoint
from medical_fenlei.config import EAR2D
from medical_fenlei.errors import UserError
from medical_fenlei.tables import SETS
from medical_fenlei.vocabulary import SIDES


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("label_task",))
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--exam-id", help="the exam of one ear")
    which.add_argument("--split", choices=SETS, help="every labelled ear of this set")
    parser.add_argument("--side", choices=SIDES, help="of the patient, with --exam-id")
    parser.add_argument("--most", type=cli.at_least(1), default=5, help="neighbours of an ear (default: 5)")
    parser.add_argument("--pictures", type=cli.at_least(0), metavar="N", help="draw only the first N ears (default: all)")
    parser.add_argument("--out-dir", type=Path, help="default: outputs/<run>/reports/neighbors")
    cli.add(parser, "draws")
    args = parser.parse_args(argv)
    if bool(args.exam_id) != bool(args.side):
        raise UserError("--exam-id and --side: each needs the other")

    import pandas as pd
    from tqdm import tqdm

    from medical_fenlei import tables
    from medical_fenlei.data.sources import set_label
    from medical_fenlei.embeddings.neighbor_pictures import draw_neighbours
    from medical_fenlei.embeddings.neighbors import neighbours
    from medical_fenlei.embeddings.retrieval import agreement, ears_to_ask, embed, training_embeddings
    from medical_fenlei.evaluation.evaluate import table_of

    trained, data = open_checkpoint(args, kind=EAR2D)
    out = args.out_dir or trained.run.reports / "neighbors"
    dataset, rejects = ears_to_ask(trained, data, split=args.split, exam_id=args.exam_id, side=args.side)
    train, sources = training_embeddings(trained, data, out, batch_size=args.batch_size)
    asked = embed(trained, dataset, batch_size=args.batch_size)
    near = neighbours(train, asked, most=args.most)
    name = f"neighbors_{set_label(args.split, data)}" if args.split else f"{args.exam_id}_{args.side}"
    tables.NEIGHBORS.write(out / f"{name}.csv", near)
    each = list(near.groupby(["exam_id", "side"], sort=False))[:args.pictures]
    for (exam_id, side), own in tqdm(each, desc="pictures", disable=None, leave=False):
        draw_neighbours(out / f"{exam_id}_{side}.png", trained, trained.store(data), own)
    cli.say(f"{len(asked)} ears, each against {len(train)} training ears; {len(each)} pictures")
    if args.split:
        _, intervals = agreement(near, train, asked, draws=args.draws)
        cli.say(f"neighbours with the ear's label (share), the nearest one (first), a training ear at random (chance), "
                f"share / chance (ratio); {intervals.patients} patients")
        cli.show(table_of(intervals))
        for text in intervals.warnings:
            cli.warn(text)
    else:
        cli.show(near[["rank", "neighbour_exam_id", "neighbour_side", "neighbour_label_code", "distance"]].round(3))
    cli.say(f"wrote {out / f'{name}.csv'}; look into {out}")
    rejects = tables.REJECTS.frame(pd.concat([sources.rejects, rejects], ignore_index=True))
    return cli.report_rejects(rejects, out / f"{name}.csv")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
