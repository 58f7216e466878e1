"""Cut every ear of a split out of its series, once, so that training decodes no DICOM.

    python scripts/build_cache_ears.py --splits-root artifacts/splits_dual_patient --pct 100 --num-slices 32 \\
        --image-size 224 --crop-size 192 --sampling even --num-workers 16

Cached ears are kept: the command can be interrupted, repeated, and run in two terminals at once, which share the work. Ears
that were cut from another series than the manifest names are cut anew. --verify first reads all ears and rebuilds damaged ones.
"""
from medical_fenlei import cli
from medical_fenlei.commands.build_cache import build_cache_command
from medical_fenlei.config import EAR_ROUTE


def main(argv: list[str] | None = None) -> int:
    return build_cache_command(__doc__, EAR_ROUTE, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
