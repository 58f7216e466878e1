"""Calibrate the probabilities of a trained dual network and choose its thresholds, on the tune set only.

    python scripts/calibrate_dual.py --checkpoint outputs/<run>/checkpoints/best.pt

Like calibrate_ear2d: a temperature and, for each binary task, operating points, in
outputs/<run>/checkpoints/best.calibration.json, which eval_dual applies, deciding at --point. It cannot be fitted on validation
or test sets.
"""
from medical_fenlei import cli
from medical_fenlei.commands.calibrate import calibrate_command
from medical_fenlei.config import DUAL


def main(argv: list[str] | None = None) -> int:
    return calibrate_command(__doc__, DUAL, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
