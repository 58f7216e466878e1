"""The names of the counts of an index, and which of them are parts of which."""
FILES = ("in folders of these exams", "of chosen series", "of other series", "that are no CT image or cannot be read")
"""Counts of files; the first is the sum of the others."""
DOUBTS = ("cut at a hole", "resampled (missing slices or uneven steps)", "little z-coverage: a part may be missing")
"""Ways in which a usable series is not as it was scanned."""

_DEPTH = {
    "of these, without a readable exam id": 1, "missing on disk": 1, "refused, named like the patient": 1,
    "matched to a folder": 1, "unlabelled on both sides": 2, "labelled, without a usable series": 2, "usable": 2,
    **dict.fromkeys((f"files {what}" for what in FILES[1:]), 1),
    **dict.fromkeys(("of these, there but for leading zeros", "of these, elsewhere under a similar name",
                     "of these, ambiguous (several folders)", "of these, date differs from the label sheet"), 2),
    **dict.fromkeys((f"of these, {what}" for what in ("with a series for each ear", *DOUBTS)), 3),
}


def count_depth(what: str) -> int:
    """Return how far a count is indented: those one level deeper add up to the one above them, or are "of these"."""
    return _DEPTH.get(what, 0)
