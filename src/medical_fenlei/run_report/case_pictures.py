"""The explanations that were drawn of an evaluation's cases: those that show the probabilities of this evaluation."""
from collections.abc import Mapping
from pathlib import Path

from medical_fenlei.files import read_json

SAME = 0.01
"""Greatest difference of a probability that a picture, which shows two decimals, may have."""


def shows(picture: Path, probabilities: Mapping[str, float]) -> bool:
    """Return whether a picture of an ear shows these probabilities (by class), as the file of its name with `.json` tells.

    An earlier network, or another temperature, gave others; a picture without such a file is not known to show them.
    """
    try:
        shown = read_json(picture.with_suffix(".json"))["rows"][0]
        return abs(shown["probability"] - probabilities[shown["class_name"]]) <= SAME
    except (OSError, ValueError, LookupError, TypeError):
        return False
