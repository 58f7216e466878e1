"""Cut every ear of a split out of its series once, so that no epoch decodes DICOM again.

    python scripts/build_cache_ears.py --splits-root artifacts/splits_dual_patient --pct 100 --num-slices 32 \\
        --image-size 224 --crop-size 192 --sampling even --num-workers 16

Ears that are there are left alone: it can be interrupted, run again, and run in two terminals at once, which share the work.
--verify reads them all first, and makes anew what is damaged.
"""
from medical_fenlei import cli
from medical_fenlei.commands.build_cache import build_cache_command
from medical_fenlei.config import EAR_ROUTE


def main(argv: list[str] | None = None) -> int:
    return build_cache_command(__doc__, EAR_ROUTE, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
