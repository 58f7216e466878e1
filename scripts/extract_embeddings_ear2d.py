"""What a trained ear network makes of every labelled ear of a set: one vector an ear.

    python scripts/extract_embeddings_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --split train --pct 100 \\
        --out-npz artifacts/emb_train.npz

Ears of every code, also of those that the network's tasks do not concern. The NPZ holds embedding (N, D) float32, exam_id,
side, patient_key and label_code, and no pickled object.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, open_checkpoint
from medical_fenlei.config import EAR2D
from medical_fenlei.tables import SETS


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("label_task",))
    parser.add_argument("--split", choices=SETS, default="train", help="which set (default: train)")
    parser.add_argument("--out-npz", type=Path, help="default: artifacts/emb_<set>.npz")
    args = parser.parse_args(argv)

    from medical_fenlei.data.sources import find_ears
    from medical_fenlei.embeddings.vectors import Embeddings
    from medical_fenlei.errors import UserError

    trained, data = open_checkpoint(args, kind=EAR2D)
    store = trained.store(data)
    sources = find_ears(data, store, None, (args.split,))
    dataset = sources.dataset(store, args.split, sources.placement(store, trained.arithmetic.device))
    if dataset is None:
        raise UserError(f"--split {args.split}: {data.splits_root} --pct {data.pct} has no labelled ears there")
    ears = dataset.ears_in_order
    found = Embeddings(embedding=trained.infer(dataset, batch_size=args.batch_size).embedding,
                       **{name: ears[name].to_numpy() for name in ("exam_id", "side", "patient_key", "label_code")})
    out = args.out_npz or Path(f"artifacts/emb_{args.split}.npz")
    found.write(out)
    cli.say(f"wrote {out}: {len(ears)} ears of {ears.patient_key.nunique()} patients, {found.embedding.shape[1]} numbers each")
    return cli.report_rejects(sources.rejects, out)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
