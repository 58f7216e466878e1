"""Explain the predictions of a trained dual network, for the ears of one exam or for every ear of a set.

    python scripts/gradcam_dual.py --checkpoint outputs/<run>/checkpoints/best.pt --exam-id <id>
    python scripts/gradcam_dual.py --checkpoint outputs/<run>/checkpoints/best.pt --exam-id <id> --side left
    python scripts/gradcam_dual.py --checkpoint outputs/<run>/checkpoints/best.pt --all --split val

Like gradcam_ear2d, with the same files in outputs/<run>/reports/ and the same page; without --side, both ears of the exam are
explained from one pass of the network, each in a folder of its own (--out-dir DIR: DIR/left and DIR/right). A 3D network has no
attention: its slices are ranked by their share of the heat of the first map. Methods: integrated (integrated gradients from air
to the ear, any network) and the class activation maps gradcam, gradcam++, hirescam, layercam, xgradcam, whose cells are
resampled to the voxels of the ear. They map a stage of the network, --layer: layer1 to layer4 of a residual network, decoded of
dual_unet_3d, norm of dual_vit_3d, any stage of the backbone of dual_slice_attention.
"""
from medical_fenlei import cli
from medical_fenlei.commands.explain import explain_command
from medical_fenlei.config import DUAL


def main(argv: list[str] | None = None) -> int:
    return explain_command(__doc__, DUAL, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
