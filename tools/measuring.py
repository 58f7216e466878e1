"""What the benchmarks share: pairs measured in turn, and a line of their tables."""
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from medical_fenlei import cli


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turn(one: Callable[[], float], other: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """What each measures, pair by pair, each first in every second pair; once before, so that both are warm."""
    one(), other()
    found = []
    for n in range(pairs):
        first, second = (one, other) if n % 2 else (other, one)
        values = {first: first(), second: second()}
        found.append((values[one], values[other]))
    return found


def spin(rounds: int) -> int:
    total = 0
    for n in range(rounds):
        total += n * n
    return total


def scaling(work: Callable[[Any], object], items: list[Any], one: Any, two: Any) -> float:
    """What a pool of two processes gains over a pool of one on these items, over what it gains on a bare loop."""
    def gain(function: Callable[[Any], object], items: list[Any]) -> float:
        alone, together = (seconds(lambda pool=pool: pool.map(function, items, 1)) for pool in (one, two))
        return alone / together

    return gain(work, items) / gain(spin, [6_000_000] * 8)


def figure(name: str, values: list[float], unit: str, better: str) -> dict[str, Any]:
    """Says the median and the distance of the quartiles; returns them as the JSON of SPEC has them."""
    value = float(np.median(values))
    spread = float(np.subtract(*np.quantile(values, [0.75, 0.25])))
    cli.say(f"{name:40s} {value:8.2f} {unit:6s} (n {len(values)}, quartiles apart {spread:.2f})")
    return {"name": name, "value": value, "unit": unit, "better": better, "n": len(values), "spread": spread}
