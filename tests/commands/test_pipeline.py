"""Cases beside each other: what overlaps, in which order things come out, and what a fault takes with it."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from neurobundle.commands.pipeline import NotAloneError, Steps, one_by_one, overlapping

logger = logging.getLogger(__name__)

#: So long a thread waits for another one before a test fails.
LONG_S = 30.0


class Recorded:
    """Steps that note what they do, and stop where they are told to."""

    def __init__(self, **faults: dict[int, Exception]) -> None:
        self.faults, self.log = faults, []  # type: ignore[var-annotated]
        self.unprepared: set[int] = set()
        self.crowded: set[int] = set()
        self.forgotten = 0

    def steps(self) -> Steps[int, int, int, int]:
        return Steps(self.prepare, self.work, self.finish, self.forget)

    def _do(self, step: str, n: int, alone: bool | None = None) -> None:
        logger.warning("%s %d", step, n)
        self.log.append((step, n, alone))
        if n in self.faults.get(step, {}):
            raise self.faults[step][n]

    def prepare(self, n: int, alone: bool) -> int | None:
        self._do("prepare", n, alone)
        return None if n in self.unprepared and not alone else n

    def work(self, n: int, alone: bool) -> int:
        self._do("work", n, alone)
        if n in self.crowded and not alone:
            raise NotAloneError
        return n

    def finish(self, n: int) -> int:
        self._do("finish", n)
        return 10 * n

    def forget(self) -> None:
        self.forgotten += 1


@pytest.mark.parametrize("way", [one_by_one, overlapping])
@pytest.mark.parametrize("cases", [0, 1, 2, 5])
def test_results_and_lines_come_in_the_order_of_the_items(
    way: Callable[..., Any], cases: int, caplog: pytest.LogCaptureFixture
) -> None:
    done = Recorded()
    assert list(way(range(cases), done.steps())) == [10 * n for n in range(cases)]
    assert caplog.messages == [f"{step} {n}" for n in range(cases) for step in ("prepare", "work", "finish")]


def test_the_next_is_prepared_and_the_last_is_finished_while_one_is_worked_on() -> None:
    """Each step waits for what only an overlap lets happen; one thread after the other would wait for ever."""
    prepared, finishing = [threading.Event() for _ in range(3)], [threading.Event() for _ in range(3)]
    waited = []

    def prepare(n: int, _: bool) -> int:
        prepared[n].set()
        return n

    def work(n: int, _: bool) -> int:
        waited.append(n == 2 or prepared[n + 1].wait(LONG_S))
        waited.append(n == 0 or finishing[n - 1].wait(LONG_S))
        return n

    def finish(n: int) -> int:
        finishing[n].set()
        return n

    assert list(overlapping(range(3), Steps(prepare, work, finish, lambda: None))) == [0, 1, 2]
    assert waited == [True] * 6


class Held:
    """What a case holds in memory."""


def test_three_cases_are_alive_at_most() -> None:
    """The one that is worked on, one before and one behind it; and none when all is done."""
    alive: weakref.WeakSet[Held] = weakref.WeakSet()
    most = []

    def prepare(_: int, __: bool) -> Held:
        held = Held()
        alive.add(held)
        most.append(len(alive))
        return held

    def finish(_: Held) -> None:
        most.append(len(alive))

    for _ in overlapping(range(20), Steps(prepare, lambda held, _: held, finish, lambda: None)):
        most.append(len(alive))
    gc.collect()
    assert 1 <= max(most) <= 3
    assert len(alive) == 0


def test_what_is_not_prepared_beside_others_is_prepared_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Its lines are said once, and nothing but it is begun meanwhile."""
    done = Recorded()
    done.unprepared = {0, 2}
    assert list(overlapping(range(4), done.steps())) == [0, 10, 20, 30]
    assert caplog.messages == [f"{step} {n}" for n in range(4) for step in ("prepare", "work", "finish")]
    for n in (0, 2):
        begin = done.log.index(("prepare", n, True))
        assert done.log[begin + 1] == ("work", n, True)
        assert all(number < n for _, number, _ in done.log[:begin] if number != n)
        assert n == 0 or ("finish", n - 1, None) in done.log[:begin]


def test_what_does_not_succeed_beside_others_is_worked_on_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The case before it is finished by then, and what was prepared after it is dropped and prepared anew."""
    done = Recorded()
    done.crowded = {1}
    assert list(overlapping(range(4), done.steps())) == [0, 10, 20, 30]
    assert done.forgotten == 1
    begin = done.log.index(("prepare", 1, True))
    assert ("finish", 0, None) in done.log[:begin]
    assert done.log[begin + 1] == ("work", 1, True)
    assert ("prepare", 2, False) in done.log[begin:]
    assert caplog.messages == [f"{step} {n}" for n in range(4) for step in ("prepare", "work", "finish")]


@pytest.mark.parametrize("step", ["prepare", "work", "finish"])
def test_what_a_step_raises_ends_it_after_the_cases_before(step: str, caplog: pytest.LogCaptureFixture) -> None:
    done = Recorded(**{step: {2: ValueError("full")}})
    with pytest.raises(ValueError, match="full"):
        list(overlapping(range(6), done.steps()))
    finished = [n for name, n, _ in done.log if name == "finish"]
    assert finished == ([0, 1, 2] if step == "finish" else [0, 1])
    assert not any(n > 4 for _, n, _ in done.log), "nothing is begun any more"
    assert not any(n > 2 for name, n, _ in done.log if name == "finish")
    said = [line for line in caplog.messages if line.endswith((" 0", " 1"))]
    assert said == [f"{name} {n}" for n in (0, 1) for name in ("prepare", "work", "finish")]
    assert f"{step} 2" in caplog.messages


def test_an_interruption_waits_for_what_is_being_finished() -> None:
    """Ctrl-C comes while the second case is in the network and the first one is being written."""
    begun, interrupted, finished = threading.Event(), threading.Event(), []

    def work(n: int, _: bool) -> int:
        if n == 1:
            assert begun.wait(LONG_S)
            interrupted.set()
            raise KeyboardInterrupt
        return n

    def finish(n: int) -> int:
        begun.set()
        assert interrupted.wait(LONG_S)
        finished.append(n)
        return n

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        list(overlapping(range(4), Steps(lambda n, _: n, work, finish, lambda: None)))
    assert finished == [0]
    assert threading.active_count() == before


def test_lines_of_nobody_pass_and_the_handlers_are_left_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    filters = [list(handler.filters) for handler in logging.getLogger().handlers]
    results = overlapping(range(2), Recorded().steps())
    next(results)
    logger.warning("mine")
    assert caplog.messages[-1] == "mine"
    results.close()
    assert [list(handler.filters) for handler in logging.getLogger().handlers] == filters
