"""Generate a synthetic hospital: temporal bones as real DICOM, a label sheet, and the truth beside it.

    python scripts/make_demo_dataset.py --out-dir data/demo --num-exams 160 --seed 0

Writes data/medical_data_2/, metadata/labels.xlsx and truth/ below --out-dir; run the main route in that folder. No script of
the route reads truth/. An interrupted command can be repeated and continues. Everything is synthetic, not clinical evidence.
"""
from pathlib import Path

from medical_fenlei import cli, settings
from medical_fenlei.phantom.spec import HospitalSpec


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add_shared_flags(parser, "num_workers", out_dir=Path("data/demo"))
    settings.add_flags(parser, HospitalSpec)
    args = parser.parse_args(argv)
    spec = settings.from_flags(HospitalSpec, args)

    from medical_fenlei.phantom.hospital import NOTE, write_hospital

    counts = write_hospital(args.out_dir, spec, workers=args.num_workers)
    cli.say(f"wrote {args.out_dir}: " + ", ".join(f"{number} {what}" for what, number in counts.items()) + f" ({NOTE})")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
