"""Train a network that finds the structures and landmarks of the ear, on drawn ears.

    python scripts/pretrain_anatomy.py --out artifacts/anatomy.safetensors
    python scripts/pretrain_anatomy.py --steps 200 --held-out 10 --out artifacts/try.safetensors

Every ear is drawn anew, with contrast, sharpness, noise, slices, posture and disease well beyond what is real. An interrupted
command can be repeated and continues. Prints the Dice of each structure and the error of each landmark on drawn ears that were
kept apart, once with diagnoses that were taught, once with one that never was: synthetic, not clinical evidence.
"""
from pathlib import Path

from medical_fenlei import cli, settings
from medical_fenlei.anatomy.spec import PretrainSpec
from medical_fenlei.vocabulary import DIAGNOSES


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

    import numpy as np

    from medical_fenlei.anatomy.drawn_ears import NEVER_TAUGHT
    from medical_fenlei.anatomy.pretrain import held_out_ears, measure, pretrain

    model = pretrain(spec, args.out, workers=args.num_workers)
    cli.say(f"wrote {args.out}")
    for diagnoses, code in (("diagnoses that were taught", None), (DIAGNOSES[NEVER_TAUGHT].english, NEVER_TAUGHT)):
        cli.say(f"{args.held_out} ears kept apart, {diagnoses}:")
        measured = measure(model, held_out_ears(args.held_out, code))
        for structure, dice in measured.dice.items():
            cli.say(f"  {structure.name.lower():13s} Dice {dice:.3f}")
        for landmark, off in measured.off_mm.items():
            middle, most = np.percentile(off, (50, 95)) if len(off) else (np.nan, np.nan)
            cli.say(f"  {landmark.name.lower():13s} off by {middle:.1f} mm (median), {most:.1f} mm (95th percentile)")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
