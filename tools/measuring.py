"""Shared parts of the benchmarks: timing, pairs measured in turn, and the figures of their tables."""
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from medical_fenlei import cli

Measured = TypeVar("Measured")


def seconds(work: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turn(one: Callable[[], Measured], other: Callable[[], Measured], pairs: int) -> list[tuple[Measured, Measured]]:
    """Return pairs of measurements, with alternating order, after one measurement of each to warm up."""
    one(), other()
    found = []
    for n in range(pairs):
        first, second = (one, other) if n % 2 else (other, one)
        values = {first: first(), second: second()}
        found.append((values[one], values[other]))
    return found


def spin(rounds: int) -> int:
    """Run a plain loop that uses only the processor."""
    total = 0
    for n in range(rounds):
        total += n * n
    return total


def scaling(work: Callable[[Any], object], items: list[Any], one: Any, two: Any) -> float:
    """Return the speedup of a pool of two processes over a pool of one on these items, relative to that on a plain loop."""
    def gain(function: Callable[[Any], object], items: list[Any]) -> float:
        return seconds(lambda: one.map(function, items, 1)) / seconds(lambda: two.map(function, items, 1))

    return gain(work, items) / gain(spin, [6_000_000] * 8)


def figure(name: str, values: list[float], unit: str, better: str) -> dict[str, Any]:
    """Print the median and the interquartile range of a figure; return its row of the JSON file."""
    value = float(np.median(values))
    spread = float(np.subtract(*np.quantile(values, [0.75, 0.25])))
    cli.say(f"{name:40s} {value:8.2f} {unit:6s} (n {len(values)}, IQR {spread:.2f})")
    return {"name": name, "value": value, "unit": unit, "better": better, "n": len(values), "spread": spread}
