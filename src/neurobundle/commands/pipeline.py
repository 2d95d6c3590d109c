"""Cases one after the other, with the next one prepared and the last one finished while the network runs.

A case has three *steps*: it is *prepared* (read, and brought to the network's grid), *worked on* (the network, in the
calling thread) and *finished* (drawn, written, journalled). Beside the case that is worked on, at most one is prepared
and one is finished, each in a thread. A case is *alone* if there is none beside it. Results come in the order of the
items, and so do lines of the log: those of a case wait until the cases before it are done.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Done = TypeVar("Done")
Result = TypeVar("Result")
Value = TypeVar("Value")


class NotAloneError(Exception):
    """Raised by the work on a case that did not succeed beside others and may alone; it has written nothing."""


@dataclass(frozen=True)
class Steps(Generic[Item, Ready, Done, Result]):
    """What is done with each case.

    Attributes:
        prepare: the first step. None says that it did not succeed, and is to be tried alone.
        work: the second step, with what the first one gave; it may raise :class:`NotAloneError` if not alone.
        finish: the third step, with what the second one gave.
        forget: drops what the first step left of a case that is prepared anew.

    The first two are told whether the case is alone.
    """

    prepare: Callable[[Item, bool], Ready | None]
    work: Callable[[Ready, bool], Done]
    finish: Callable[[Done], Result]
    forget: Callable[[], None]

    def alone(self, item: Item) -> Done:
        """The first two steps of a case that is alone."""
        ready = self.prepare(item, True)
        assert ready is not None, "alone, a case is prepared or raises"
        return self.work(ready, True)


def one_by_one(items: Sequence[Item], steps: Steps[Item, Any, Any, Result]) -> Generator[Result, None, None]:
    """Each case alone.

    Args:
        items: what the cases are made of.
        steps: what is done with each.

    Yields:
        The results, in the order of the items.
    """
    for item in items:
        yield steps.finish(steps.alone(item))


def overlapping(items: Sequence[Item], steps: Steps[Item, Any, Any, Result]) -> Generator[Result, None, None]:
    """Each case beside the next one, which is prepared, and the last one, which is finished.

    What a step raises, and an interruption of the calling thread, ends it when the steps that were begun are over.

    Args:
        items: what the cases are made of.
        steps: what is done with each.

    Yields:
        The results, in the order of the items.
    """
    with _Turns() as turns, ThreadPoolExecutor(1, "ahead") as ahead, ThreadPoolExecutor(1, "behind") as behind:
        yield from _Overlap(items, steps, turns, ahead, behind).results()


class _Overlap(Generic[Item, Ready, Done, Result]):
    """The state of :func:`overlapping`: which case is prepared, and which is finished."""

    def __init__(
        self,
        items: Sequence[Item],
        steps: Steps[Item, Ready, Done, Result],
        turns: _Turns,
        ahead: ThreadPoolExecutor,
        behind: ThreadPoolExecutor,
    ) -> None:
        self._items, self._steps, self._turns = items, steps, turns
        self._ahead, self._behind = ahead, behind
        self._coming: Future[Ready | None] | None = None
        self._going: Future[Result] | None = None
        self._settled: list[Result] = []

    def results(self) -> Iterator[Result]:
        for n in range(len(self._items)):
            done = self._worked(n)
            self._settle()
            self._going = self._behind.submit(self._turns.call, n, self._steps.finish, done)
            del done  # it is the other thread's, which lets go of it
            yield from self._taken()
        self._settle()
        yield from self._taken()

    def _worked(self, n: int) -> Done:
        ready = self._arrived(n)
        if ready is not None:
            self._send(n + 1)
            try:
                return self._turns.call(n, self._steps.work, ready, False)
            except NotAloneError:
                pass  # the exception holds what filled the memory until this block is left
        del ready
        self._settle()
        if self._coming is not None:
            self._coming.result()
            self._turns.drop(n + 1)
            self._coming = None
        self._steps.forget()
        self._turns.drop(n)
        done = self._turns.call(n, self._steps.alone, self._items[n])
        self._send(n + 1)
        return done

    def _arrived(self, n: int) -> Ready | None:
        if self._coming is None:
            self._send(n)
        assert self._coming is not None
        coming, self._coming = self._coming, None
        return coming.result()

    def _send(self, n: int) -> None:
        if n < len(self._items):
            self._coming = self._ahead.submit(self._turns.call, n, self._steps.prepare, self._items[n], False)

    def _settle(self) -> None:
        """Wait for the case that is being finished."""
        going, self._going = self._going, None
        if going is not None:
            self._settled.append(going.result())
            self._turns.next()

    def _taken(self) -> list[Result]:
        taken, self._settled = self._settled, []
        return taken


class _Turns:
    """Holds back what is logged while a case is worked on, until its turn; what no case logs passes.

    It is a filter of the root logger's handlers, so lines of other libraries wait too.
    """

    def __init__(self) -> None:
        self._here = threading.local()
        self._held: dict[int, list[tuple[logging.Handler, logging.LogRecord]]] = {}
        self._turn = 0
        self._filters: list[tuple[logging.Handler, logging.Filter]] = []

    def __enter__(self) -> _Turns:
        last = [logging.lastResort] if logging.lastResort is not None else []
        for handler in logging.getLogger().handlers or last:
            holding = _Holding(handler, self._hold)
            handler.addFilter(holding)
            self._filters.append((handler, holding))
        return self

    def __exit__(self, *_: object) -> None:
        for handler, holding in self._filters:
            handler.removeFilter(holding)
        for n in sorted(self._held):
            self._say(n)

    def call(self, n: int, function: Callable[..., Value], *args: Any) -> Value:
        """Call a function; what it logs is case n's."""
        with self._of(n):
            return function(*args)

    def next(self) -> None:
        """The case whose turn it is is done."""
        self._say(self._turn)
        self._turn += 1

    def drop(self, n: int) -> None:
        """Forget what a case has logged: it is begun anew."""
        self._held.pop(n, None)

    @contextlib.contextmanager
    def _of(self, n: int) -> Iterator[None]:
        self._here.lines = self._held.setdefault(n, [])
        try:
            yield
        finally:
            self._here.lines = None

    def _hold(self, handler: logging.Handler, record: logging.LogRecord) -> bool:
        """Whether a record was held back."""
        lines = getattr(self._here, "lines", None)
        if lines is None:
            return False
        lines.append((handler, record))
        return True

    def _say(self, n: int) -> None:
        for handler, record in self._held.pop(n, []):
            handler.handle(record)


class _Holding(logging.Filter):
    """Lets pass what is not held back."""

    def __init__(self, handler: logging.Handler, hold: Callable[[logging.Handler, logging.LogRecord], bool]) -> None:
        super().__init__()
        self._handler, self._hold = handler, hold

    def filter(self, record: logging.LogRecord) -> bool:
        return not self._hold(self._handler, record)
