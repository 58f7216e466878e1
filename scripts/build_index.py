"""Match the label sheet with the DICOM on disk and choose a series for each exam.

    python scripts/build_index.py --out-csv artifacts/dataset_index.csv

Writes one row an exam, and beside it <stem>_rejects.csv: every series, file and cell that was left out, with the reason.
"""
from pathlib import Path

from medical_fenlei import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--out-csv", type=Path, default=Path("artifacts/dataset_index.csv"), help="one row an exam")
    cli.add(parser, "dicom_base", "xlsx_path", "num_workers", "limit")
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.ingest.index import build_index
    from medical_fenlei.ingest.label_sheet import only_sheet, read_label_sheet
    from medical_fenlei.ingest.tree import find_exams

    sheet = read_label_sheet(args.xlsx_path or only_sheet())
    exams = find_exams(args.dicom_base)[: args.limit]
    index = build_index(sheet, exams, base=args.dicom_base, workers=args.num_workers)
    tables.INDEX.write(args.out_csv, index.table)
    for what, number in index.counts.items():
        cli.say(f"{number:7d} {what}")
    cli.say(f"wrote {args.out_csv}")
    return cli.report_rejects(index.rejects, args.out_csv, faults=index.faults)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
