"""Train a network that finds the structures of the ear, on drawn ears.

    python scripts/pretrain_anatomy.py --out artifacts/anatomy.safetensors
    python scripts/pretrain_anatomy.py --steps 200 --held-out 10 --out artifacts/try.safetensors

Every ear is drawn anew, with contrast, sharpness, noise, slices, posture and disease well beyond what is real. An interrupted
command can be repeated and continues. Prints the Dice of each structure on drawn ears that were kept apart: synthetic, not
clinical evidence.
"""
from pathlib import Path

from medical_fenlei import cli, settings
from medical_fenlei.anatomy.spec import PretrainSpec


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add_shared_flags(parser, "num_workers")
    parser.add_argument("--out", type=Path, default=Path("artifacts/anatomy.safetensors"), metavar="FILE",
                        help="file of the weights (default: %(default)s)")
    parser.add_argument("--held-out", type=cli.int_at_least(1), default=100, metavar="N",
                        help="drawn ears on which the network is measured (default: %(default)s)")
    settings.add_flags(parser, PretrainSpec)
    args = parser.parse_args(argv)
    spec = settings.from_flags(PretrainSpec, args)

    from medical_fenlei.anatomy.pretrain import measure, pretrain

    model = pretrain(spec, args.out, workers=args.num_workers)
    cli.say(f"wrote {args.out}")
    for structure, dice in measure(model, args.held_out).items():
        cli.say(f"{structure:13s} Dice {dice:.3f}")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
