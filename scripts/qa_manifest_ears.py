"""What the labelled ears are, set by set: scans, diagnoses, people, what is missing; and what of it deserves a look.

    python scripts/qa_manifest_ears.py --manifest-csv artifacts/manifest_ears.csv --out-dir artifacts/qa_manifest

Looks at every split under artifacts/splits_dual*, or at those that --splits-root names; without one, at the manifest alone.
Writes index.html (open it in a browser; it needs no network and no other file), its tables as CSV, and findings.csv: a kernel
that occurs in one class only, a vendor that validation lacks, a class of few ears, an unusual scan, sets that differ.
"""
from pathlib import Path

from medical_fenlei import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add(parser, "manifest_csv")
    parser.add_argument("--splits-root", type=Path, nargs="*", help="holds 1pct/ 20pct/ 100pct/ (default: all there are)")
    parser.add_argument("--out-dir", type=Path, default=Path("artifacts/qa_manifest"), help="default: artifacts/qa_manifest")
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
    found = write_cohort(args.out_dir, manifest, [amounts for amounts in roots if amounts])
    for finding in found:
        cli.say(f"{finding.kind}: {finding.text}")
    cli.say(f"{len(found)} things deserve a look; wrote {args.out_dir}, look at {args.out_dir / 'index.html'}")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
