"""Evaluate a trained dual network ear by ear: every measure with a confidence interval that resamples patients.

    python scripts/eval_dual.py --checkpoint outputs/<run>/checkpoints/best.pt

Like eval_ear2d, with the same files in outputs/<run>/reports/ and the same page: data, splits and cache are those of the run's
configuration, flags override them. What calibrate_dual fitted is applied. --cohort NAME evaluates another hospital. The hardest
cases get a picture each (gradcam_dual); without a GPU a large 3D network takes minutes for one (--pictures 0 makes none).
"""
from medical_fenlei import cli
from medical_fenlei.commands.evaluate import evaluate_command
from medical_fenlei.config import DUAL


def main(argv: list[str] | None = None) -> int:
    return evaluate_command(__doc__, DUAL, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
