"""Series whose slices were exported under many SeriesInstanceUIDs, one for each slice or for a few: joined where that is safe.

UIDs are evidence, not truth. Size, direction, spacing, kernel, image type, study and frame of reference of the fragments must
agree; whether their positions make one regular scan, or several, is decided afterwards as for any series.
"""
import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medical_fenlei.dicom.header import Header
from medical_fenlei.errors import Rejected

FRAGMENT, MIN_FRAGMENTS, MIN_IMAGES = 16, 3, 8
"""Most images of a fragment; fewest fragments, and images in all of them, that are taken for parts of one series."""

Group = Sequence[Header]


@dataclass(frozen=True)
class Joined:
    """Images of one series, whatever UIDs they have."""

    headers: tuple[Header, ...]
    notes: tuple[str, ...] = ()
    """What was joined: reason code, colon, detail."""

    refusal: Rejected | None = None
    """Why the images cannot be joined safely, although they seem to be of one series."""


def join_fragments(groups: Iterable[Group], *, fits: Callable[[Header, Header], bool],
                   how: str = "under {} values of SeriesInstanceUID") -> list[Joined]:
    """Join the groups that are fragments of one series.

    fits: whether direction and spacing agree; how: what separates the groups, with a place for their number.
    """
    whole: list[Joined] = []
    fragments: dict[Hashable, list[list[Group]]] = {}
    for group in groups:
        if len(group) > FRAGMENT:
            whole.append(Joined(tuple(group)))
            continue
        kinds = fragments.setdefault(_kind(group[0]), [])
        kind = next((kind for kind in kinds if fits(group[0], kind[0][0])), None)
        if kind is None:
            kinds.append([group])
        else:
            kind.append(group)
    return whole + [joined for kinds in fragments.values() for kind in kinds for joined in _join(kind, how)]


def _kind(header: Header) -> Hashable:
    return (header.rows, header.columns, header.kernel, header.manufacturer, header.image_type, header.study.date,
            header.study.accession)


def _join(fragments: Sequence[Group], how: str) -> list[Joined]:
    """Join fragments that agree but for their frames of reference: within each frame, or not at all."""
    frames: dict[str, list[Group]] = {}
    for group in fragments:
        frames.setdefault(group[0].frame_of_reference, []).append(group)
    joined, rest = [], []
    for own in frames.values():
        if _are_one(own):
            headers = tuple(header for group in own for header in group)
            joined.append(Joined(headers, (f"joined_fragments: {len(headers)} images {how.format(len(own))}, joined by "
                                           "geometry, kernel and frame of reference",)))
        else:
            rest += own
    if _are_one(rest) and all(len(group) == 1 for group in rest):
        headers = tuple(header for group in rest for header in group)
        return [*joined, Joined(headers, (), Rejected(
            "unjoined_fragments", f"{len(headers)} images lie {how.format(len(rest))} and not one FrameOfReferenceUID, so that "
            "nothing says which of them are one scan: export the series again with its UIDs"))]
    return [*joined, *(Joined(tuple(group)) for group in rest)]


def _are_one(fragments: Sequence[Group]) -> bool:
    """Return whether fragments are many, and either share their SeriesInstanceUID, or do not overlap along their normal.

    Only fragments of several images can overlap.
    """
    if len(fragments) < MIN_FRAGMENTS or sum(map(len, fragments)) < MIN_IMAGES:
        return False
    if len(uids := {header.series_uid for group in fragments for header in group}) == 1 and "" not in uids:
        return True                                              # separated by folder alone, in whatever order
    spans = sorted((float(along.min()), float(along.max())) for group in fragments if len(group) > 1
                   for along in [np.array([header.position for header in group]) @ fragments[0][0].normal])
    return all(before[1] < after[0] for before, after in itertools.pairwise(spans))
