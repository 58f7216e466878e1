"""How many patients does a measure rest on, and how many does it take to test or to draw it?

The support of a measure (`Interval.support`) is the number of patients with an ear of the smallest group that it needs.
docs/evaluation.md has the reasons for the numbers, tools/check_support.py measures them.
"""
from medical_fenlei.metrics.bootstrap import AT_95_PERCENT, ENOUGH_AT_95_PERCENT, Interval
from medical_fenlei.vocabulary import plural

FEWEST = 10
"""Support from which a measure is tested and drawn."""


def fewest_patients(measure: str) -> int:
    """Return the support from which a measure is tested and drawn; the name of a measure of a class ends in its codes."""
    return ENOUGH_AT_95_PERCENT if measure.startswith(AT_95_PERCENT) else FEWEST


def lack_of_support(measure: str, interval: Interval) -> str:
    """Return why a measure is neither tested nor drawn; "" if it is, or if its support was not counted."""
    fewest = fewest_patients(measure)
    if interval.support is None or interval.support >= fewest:
        return ""
    return f"it rests on {plural(interval.support, 'patient')}, at least {fewest} needed"
