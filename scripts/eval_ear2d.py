"""Evaluate a trained ear network: every measure with a confidence interval that resamples patients.

    python scripts/eval_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt

Data, splits and cache are those of the run's configuration; flags override them. If calibrate_ear2d has been run, its
calibration is applied and its operating point decides, or --point. Writes to outputs/<run>/reports/: predictions_<set>.csv
(with the top slices by attention), metrics_<set>.json, hard_cases_<set>.csv, subgroups_<set>.csv and .png (side, manufacturer,
kernel, thickness, age, sex, dates), curves_<set>.png, and report.html, the report of the run. For a network with several tasks,
each is evaluated on its own ears: predictions_<set>_<task>.csv. With --limit, the file names contain it. Patients of
another hospital are a cohort with a name, side by side with the run's own on its page:

    python scripts/eval_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --cohort hospital_b \\
        --manifest-csv artifacts/hospital_b/manifest_ears.csv --dicom-base data/hospital_b
"""
from medical_fenlei import cli
from medical_fenlei.commands.evaluate import evaluate_command
from medical_fenlei.config import EAR2D


def main(argv: list[str] | None = None) -> int:
    return evaluate_command(__doc__, EAR2D, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
