"""Measures with their intervals in words: for pages, tables, plots and the terminal."""
import math

import pandas as pd

from medical_fenlei.metrics.bootstrap import Intervals


def has_interval(low: float | None, high: float | None) -> bool:
    """Return whether there is an interval: one without width comes from resamples that are all equal, and is none."""
    return low is not None and high is not None and not math.isnan(low) and not math.isnan(high) and low != high


def interval_words(low: float | None, high: float | None, digits: int = 3) -> str:
    """Return `0.412 to 0.873`, or `no interval` where there is none. low, high: None or NaN where they are undefined."""
    if low is None or high is None or not has_interval(low, high):
        return "no interval"
    return " to ".join(f"{round(end, digits) + 0.0:.{digits}f}" for end in (low, high))


def interval_table(intervals: Intervals) -> pd.DataFrame:
    """Return a row per measure: metric, estimate, 95 % interval and note, all as text."""
    return pd.DataFrame([{"metric": name, "estimate": f"{i.estimate:.3f}", "95 % interval": interval_words(i.low, i.high),
                          "note": i.reason} for name, i in intervals.values.items()])
