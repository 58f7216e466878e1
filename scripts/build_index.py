"""Match the label sheet with the DICOM on disk and choose a series for each exam.

    python scripts/build_index.py --out-csv artifacts/dataset_index.csv
    python scripts/build_index.py --series-rules rules.toml        # e.g. max_step_mm = 1.0

Writes one row an exam, and beside it <stem>_rejects.csv: every series, file and cell that was left out, with the reason; and
series_report.csv: every series with its facts and its verdict. What the headers say is kept in <stem>_scan.jsonl; a second run
reads only what has changed since. docs/artifacts.md says what a label sheet may look like, and what each reason means.

Counts that stand one deeper add up to the one above them; "of these" says how many have something more about them.
"""
from dataclasses import replace
from pathlib import Path

from medical_fenlei import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--out-csv", type=Path, default=Path("artifacts/dataset_index.csv"),
                        help="one row an exam (default: artifacts/dataset_index.csv)")
    cli.add(parser, "dicom_base", "xlsx_path", "num_workers", "cluster", "limit")
    parser.add_argument("--series-rules", type=Path, metavar="FILE",
                        help="TOML that changes how series are chosen (docs/TASK.md)")
    parser.add_argument("--rescan", action="store_true", help="read every header again")
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.errors import UserError
    from medical_fenlei.files import write_json
    from medical_fenlei.ingest.index import HARMLESS, build_index
    from medical_fenlei.ingest.label_sheet import WORKSHEET, only_sheet, read_label_sheet
    from medical_fenlei.ingest.series_choice import read_rules
    from medical_fenlei.ingest.spreadsheet import squeezed
    from medical_fenlei.ingest.tree import find_exams

    path = args.xlsx_path or only_sheet()
    sheet = read_label_sheet(path)
    if sheet.worksheet and squeezed(sheet.worksheet) != WORKSHEET:
        cli.warn(f"{path} has no worksheet {WORKSHEET!r}; read {sheet.worksheet!r}, the only one with its columns")
    rules = read_rules(args.series_rules)
    tree = find_exams(args.dicom_base)
    if args.limit and args.limit < len(tree.exams):
        cli.warn(f"--limit {args.limit}: the first of {len(tree.exams)} exam folders are looked at, others count as missing")
        tree = replace(tree, exams=tree.exams[: args.limit])
    index = build_index(sheet, tree, base=args.dicom_base, scan_file=tables.scan_path(args.out_csv), workers=cli.workers(args),
                        rules=rules, rescan=args.rescan)
    report = args.out_csv.with_name("series_report.csv")
    tables.SERIES.write(report, index.series)
    tables.INDEX.write(args.out_csv, index.table)
    write_json(tables.counts_path(args.out_csv), index.counts)
    for line in index.lines():
        cli.say(line)
    cli.say(f"wrote {args.out_csv}, and {report} with every series and its verdict")
    status = cli.report_rejects(index.rejects, args.out_csv, faults=index.faults, harmless=HARMLESS)
    if index.table.empty:
        said, there = sheet.labels.exam_id.iloc[0], tree.exams[0].relpath
        raise UserError(f"--dicom-base {args.dicom_base}, --xlsx-path {path}: the sheet names no exam folder; its first exam "
                        f"is {said!r}, the first folder {there!r}")
    return status


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
