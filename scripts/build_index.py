"""Match the label sheet with the DICOM on disk and choose a series for each exam.

    python scripts/build_index.py --out-csv artifacts/dataset_index.csv
    python scripts/build_index.py --series-rules rules.toml        # e.g. max_slice_spacing_mm = 1.0
    python scripts/build_index.py --template                       # an empty label sheet to fill in, and nothing else

Writes one row per exam. Beside it: series_report.csv (with another --out-csv, <stem>_series_report.csv), every series with its
facts and its verdict; <stem>_rejects.csv, every series, file and cell that was left out, with the reason; and
<stem>_scan.jsonl, the header facts, so that a second run reads only what has changed.
The index of another hospital, with none of the exams, is not replaced.
docs/artifacts.md describes the label sheet and the reasons.

In the printed counts, indented lines add up to the line above them, except lines with "of these".
"""
from pathlib import Path

from medical_fenlei import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add_shared_flags(parser, "dicom_base", "xlsx_path", "series_rules", "num_workers", "cluster", "limit",
                         out_csv=Path("artifacts/dataset_index.csv"))
    parser.add_argument("--rescan", action="store_true", help="read all headers again")
    parser.add_argument("--template", type=Path, nargs="?", const=Path("metadata/template.xlsx"), metavar="FILE",
                        help="only write an empty label sheet to fill in (default file: %(const)s)")
    args = parser.parse_args(argv)
    if args.template:
        from medical_fenlei.ingest.template_sheet import write_template

        write_template(args.template)
        cli.say(f"wrote {args.template}; fill it in, and run build_index without --template")
        return cli.OK

    from medical_fenlei import tables
    from medical_fenlei.exclusive import only_writer
    from medical_fenlei.ingest.index import build_index, check_sheet_and_tree, refuse_other_index
    from medical_fenlei.ingest.label_sheet import only_sheet, read_label_sheet
    from medical_fenlei.ingest.series_rules import read_rules
    from medical_fenlei.ingest.tree import find_exams
    from medical_fenlei.reasons import HARMLESS

    path = args.xlsx_path or only_sheet()
    sheet, rules = read_label_sheet(path), read_rules(args.series_rules)
    tree = find_exams(args.dicom_base).first(args.limit)
    check_sheet_and_tree(sheet, tree, xlsx_path=path, dicom_base=args.dicom_base)
    refuse_other_index(args.out_csv, sheet, tree, dicom_base=args.dicom_base)
    with only_writer("--out-csv", args.out_csv):
        index = build_index(sheet, tree, base=args.dicom_base, scan_file=tables.scan_path(args.out_csv),
                            workers=cli.workers(args), rules=rules, rescan=args.rescan)
        report = index.write(args.out_csv)
        for line in index.lines():
            cli.say(line)
        cli.say(f"wrote {args.out_csv}, and {report} with every series and its verdict")
        return cli.report_rejects(index.rejects, args.out_csv, faults=index.faults, harmless=HARMLESS)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
