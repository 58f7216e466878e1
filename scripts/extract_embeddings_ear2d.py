"""Compute the embedding of every labelled ear of a set with a trained ear network.

    python scripts/extract_embeddings_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --split train --pct 100 \\
        --out-npz artifacts/emb_train.npz

Includes ears of every code, also codes outside the network's tasks. The NPZ contains embedding (N, D) float32, exam_id, side,
patient_key and label_code, and no pickled object. --cohort NAME: patients of another hospital (eval_ear2d), by default in
artifacts/emb_<NAME>.npz.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, add_set_flags, open_checkpoint
from medical_fenlei.config import EAR2D
from medical_fenlei.vocabulary import SETS, plural


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("label_task",))
    add_set_flags(parser, choices=SETS, does="embed", default="train")
    parser.add_argument("--out-npz", type=Path, metavar="NPZ", help="output file (default: artifacts/emb_<set>.npz)")
    args = parser.parse_args(argv)
    set_name = args.cohort or args.split

    network, data = open_checkpoint(args, kind=EAR2D, job="extract_embeddings", sets=(set_name,), every_label=True)

    from medical_fenlei.embeddings.extraction import embed

    ears = network.open_set(data, set_name, None)
    for text in ears.notes if ears.cohort else ():
        cli.warn(text)
    found = embed(network, ears.dataset, batch_size=args.batch_size)
    out = args.out_npz or Path(f"artifacts/emb_{set_name}.npz")
    found.write(out)
    patients = ears.ears.patient_key.nunique()
    cli.say(f"wrote {out}: {plural(len(found), 'ear')} of {plural(patients, 'patient')}, {found.embedding.shape[1]} numbers "
            "each")
    return cli.report_rejects(ears.rejects, out)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
