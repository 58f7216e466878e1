"""Calibrate the probabilities of a trained ear network and choose its thresholds, on the tune set only.

    python scripts/calibrate_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --point youden --sensitivity 0.95

Fits a temperature and, for each binary task, operating points: 0.5 (half), the greatest sensitivity + specificity (youden),
95 % specificity (specificity_95), a required sensitivity (sensitivity_<percent>). Writes
outputs/<run>/checkpoints/best.calibration.json, which eval_ear2d and predict_ear2d apply, deciding at --point. With fewer than
20 patients of a class in the tune set, 0.5 decides instead, and a warning says so. It cannot be fitted on validation or test
sets, and refuses a split whose tune set shares patients with them.
"""
from medical_fenlei import cli
from medical_fenlei.commands.calibrate import calibrate_command
from medical_fenlei.config import EAR2D


def main(argv: list[str] | None = None) -> int:
    return calibrate_command(__doc__, EAR2D, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
