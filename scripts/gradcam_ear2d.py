"""Explain the predictions of a trained ear network, for one ear or for every ear of a set.

    python scripts/gradcam_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --exam-id <id> --side left
    python scripts/gradcam_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --all --split val

One ear: grey slice, heat map and overlay of the top slices (PNG, in the network's bone window), an overview with every method
(overview.png), and gradcam.json with the position of each slice and of each map's peak in the patient, in
outputs/<run>/reports/gradcam/<id>_<side>/ (several tasks: a folder <task>/ each). --all: an overview of each labelled ear,
reports/explanations_<set>/<id>_<side>.png, and explanations_<set>.csv; it can be interrupted and resumed. --cohort NAME:
patients of another hospital (eval_ear2d), in folders with its name. Methods: integrated
(integrated gradients from air to the ear, the finest) and the class activation maps gradcam, gradcam++, hirescam, layercam,
xgradcam. Works with any timm backbone, convolutional or transformer.
"""
from medical_fenlei import cli
from medical_fenlei.commands.explain import explain_command
from medical_fenlei.config import EAR2D


def main(argv: list[str] | None = None) -> int:
    return explain_command(__doc__, EAR2D, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
