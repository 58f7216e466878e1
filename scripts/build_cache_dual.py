"""Cut both halves of the head out of every exam of a split, once, so that training decodes no DICOM.

    python scripts/build_cache_dual.py --pct 100 --num-slices 32 --image-size 224 --num-workers 16

A half extends from the edge of the scan to the midsagittal plane, without a crop; the files are those of the ear cache. Cached
halves are kept: the command can be interrupted, repeated, and run in two terminals at once. Halves that were cut from another
series than the manifest names are cut anew.
"""
from medical_fenlei import cli
from medical_fenlei.commands.build_cache import build_cache_command
from medical_fenlei.config import DUAL_ROUTE


def main(argv: list[str] | None = None) -> int:
    return build_cache_command(__doc__, DUAL_ROUTE, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
