"""Two ways side by side in one run: interleaved, medians of processor time, equality asserted, one line of JSON.

A *ratio* above 1 says how many times as fast ours is. Nothing here is part of the library.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Result:
    """One comparison, or (without a baseline) one cost."""

    case: str
    ours_ms: float
    baseline: str = ""
    baseline_ms: float | None = None
    ratio: float | None = None
    goal: float | None = None
    equal: bool | None = None
    memory_mib: float | None = None
    baseline_memory_mib: float | None = None


def arguments(description: str) -> argparse.Namespace:
    """``--rounds`` and ``--small``; the latter shows that it runs, and its ratios say nothing."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=9, help="times that each way is run (9)")
    parser.add_argument("--small", action="store_true", help="tiny inputs, to see that it runs")
    return parser.parse_args()


def compare(
    case: str,
    ours: Callable[[], Any],
    baseline_name: str,
    baseline: Callable[[], Any],
    equal: Callable[[Any, Any], bool],
    rounds: int,
    goal: float | None = None,
    clock: Callable[[], float] = time.process_time,
) -> Result:
    """Time two ways in turn, after one round that does not count; ``clock`` for what a GPU does is perf_counter.

    Raises:
        AssertionError: if their outputs differ: a ratio of two different things is no ratio.
    """
    same = bool(equal(ours(), baseline()))
    assert same, f"{case}: the outputs differ"
    mine, theirs = [], []
    for _ in range(rounds):
        mine.append(_ms(ours, clock))
        theirs.append(_ms(baseline, clock))
    a, b = statistics.median(mine), statistics.median(theirs)
    return Result(case, round(a, 2), baseline_name, round(b, 2), round(b / a, 2), goal, same)


def cost(case: str, ours: Callable[[], Any], rounds: int) -> Result:
    """Time one way alone."""
    ours()
    return Result(case, round(statistics.median(_ms(ours) for _ in range(rounds)), 2))


def peak_mib_of(function: Callable[[], Any]) -> float:
    """The memory that a way takes at its peak, above what was there; measured in a fork, where there is one."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        function()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(writer, f"{(peak - before) / 1024:.1f}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return float(text)


def report(name: str, results: list[Result]) -> None:
    """A table, and the line of JSON that programs read."""
    for result in results:
        against = f"{result.ratio:6.2f} x {result.baseline} ({result.baseline_ms} ms)" if result.ratio else ""
        goal = f", goal {result.goal:g}" if result.goal else ""
        memory = f", {result.memory_mib} MiB against {result.baseline_memory_mib}" if result.memory_mib else ""
        print(f"{result.case:<58} {result.ours_ms:>9.2f} ms  {against}{goal}{memory}")
    print(json.dumps({"benchmark": name, "results": [asdict(result) for result in results]}))


def _ms(function: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    function()
    return 1000 * (clock() - start)
