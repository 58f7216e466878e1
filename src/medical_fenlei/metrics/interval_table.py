"""Measures with their intervals as a table of text."""
import pandas as pd

from medical_fenlei.metrics.bootstrap import Intervals


def interval_table(intervals: Intervals) -> pd.DataFrame:
    """Return a row per measure: metric, estimate, 95 % interval and note, all as text."""
    return pd.DataFrame([{"metric": name, "estimate": f"{i.estimate:.3f}", "95 % interval": f"{i.low:.3f} to {i.high:.3f}",
                          "note": i.reason} for name, i in intervals.values.items()])
