"""Describe the labelled ears of each set: scans, diagnoses, patients, missing values; list what needs a look.

    python scripts/qa_manifest_ears.py --manifest-csv artifacts/manifest_ears.csv --out-dir artifacts/qa_manifest

Covers every split under artifacts/splits_dual*, or those of --splits-root; without splits, the manifest only. Writes index.html
(self-contained; open it in a browser), its tables as CSV, and findings.csv: a kernel that occurs in one class only, a vendor
missing from validation, a class with few ears, an unusual scan, sets that differ.
"""
from pathlib import Path

from medical_fenlei import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add_shared_flags(parser, "manifest_csv", out_dir=Path("artifacts/qa_manifest"))
    parser.add_argument("--splits-root", type=Path, nargs="*", metavar="PATH",
                        help="folders of the splits to look at (default: all artifacts/splits_dual*)")
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.cohort.page import write_cohort
    from medical_fenlei.errors import UserError

    manifest = tables.MANIFEST.read(args.manifest_csv)
    if not (manifest.label_code > 0).any():
        raise UserError(f"--manifest-csv {args.manifest_csv}: none of its {len(manifest)} ears has a label")
    roots = [tables.read_splits(root) for root in args.splits_root or sorted(Path("artifacts").glob("splits_dual*"))]
    if args.splits_root and not all(roots):
        raise UserError(f"--splits-root {' '.join(map(str, args.splits_root))}: holds no <pct>pct/train.csv")
    findings = write_cohort(args.out_dir, manifest, [amounts for amounts in roots if amounts])
    for finding in findings:
        cli.say(f"{finding.kind}: {finding.text}")
    cli.say(f"{len(findings)} findings deserve a look; wrote {args.out_dir}, open {args.out_dir / 'index.html'}")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
