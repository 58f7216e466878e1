"""Cut both halves of the head of every exam of a split out of its series once, so that no epoch decodes DICOM again.

    python scripts/build_cache_dual.py --pct 100 --num-slices 32 --image-size 224 --num-workers 16

A half goes from the edge of the scan to the midsagittal plane, without a crop; files are those of the ear cache. Halves that
are there are left alone: it can be interrupted, run again, and run in two terminals at once.
"""
from medical_fenlei import cli
from medical_fenlei.commands.build_cache import build_cache_command
from medical_fenlei.config import DUAL_ROUTE


def main(argv: list[str] | None = None) -> int:
    return build_cache_command(__doc__, DUAL_ROUTE, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
