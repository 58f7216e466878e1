"""Is any patient, any exam or any scan in more than one set of a split?

    python scripts/check_patient_leakage.py --manifest-csv artifacts/manifest_ears.csv

Lists the patients with several exams, and checks every split under artifacts/splits_dual*, or those that --splits-root names.
Also looks for an exam in two sets, for exams that are one study, and for the same pixels under several exam ids: in the caches
of --cache-dir (their indices hold hashes, so that nothing is decoded), and with --pixels in the middle slices of every series.
--run checks what a finished run used. Finds exact copies, but no new reconstruction of the same scan.

Exits with status 1 and a table of offenders if a split has a patient or an exam in two sets, or if the same scan has different
patients and is not kept in one set. Other repetitions only cause a warning.
"""
from pathlib import Path

from medical_fenlei import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add_shared_flags(parser, "manifest_csv")
    parser.add_argument("--splits-root", type=Path, nargs="*", metavar="PATH",
                        help="folders of the splits to check (default: all artifacts/splits_dual*)")
    cli.add_shared_flags(parser, "cache_dir", "dicom_base", "num_workers")
    parser.add_argument("--pixels", action="store_true", help="decode the middle slices of every series in --dicom-base")
    parser.add_argument("--run", type=Path, help="check what a run used, outputs/<run>, instead of what those flags name")
    args = parser.parse_args(argv)

    from medical_fenlei.leakage.check import check_leakage
    from medical_fenlei.leakage.inputs import LeakageInputs

    inputs = (LeakageInputs.of_run(args.run) if args.run else
              LeakageInputs.named(args.manifest_csv, args.splits_root, args.cache_dir))
    report, rejects = check_leakage(inputs, dicom_base=args.dicom_base if args.pixels else None, workers=args.num_workers)
    for line in report.warnings():
        cli.warn(line)
    for line in report.lines():
        cli.say(line)
    status = cli.report_rejects(rejects, inputs.manifest_csv.with_name("leakage_pixels.csv")) if args.pixels else cli.OK
    if report.has_leakage:
        return cli.CHECK_FAILED
    cli.say("no leakage in what was checked" if inputs.splits else "no splits yet; run it again when there are some")
    return status


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
