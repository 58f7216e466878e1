"""The image of the scan behind a slice of a cached ear: its number and position, by which one finds it in the PACS."""
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any, NamedTuple


class SourceImage(NamedTuple):
    """The image nearest to a slice; as text, such as `image 47 (z -12.5 mm)`, "" if nothing is known of it."""

    number: int | None
    """InstanceNumber, or the number of the frame in its file, from 1; None where it is unknown."""

    z_mm: float | None
    """z of ImagePositionPatient, LPS mm, which is larger the nearer to the crown; None where it is unknown."""

    def __str__(self) -> str:
        height = "" if self.z_mm is None else f"z {self.z_mm:.1f} mm"
        if self.number is None:
            return height
        return f"image {self.number}" + (f" ({height})" if height else "")


UNKNOWN = SourceImage(None, None)


def source_images(facts: Mapping[str, Any], slices: int) -> tuple[SourceImage, ...]:
    """Return the image of each slice of an ear; those of a cache of an earlier version are unknown.

    facts: `EarFacts`; slices: their number.
    """
    numbers, heights = facts.get("slice_images") or [], facts.get("slice_z_mm") or []
    found = [SourceImage(*one) for one in zip_longest(numbers[:slices], heights[:slices])]
    return tuple(found + [UNKNOWN] * (slices - len(found)))
