"""An evaluation whose table has one row a case, whatever the task: what it writes, and how."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from neurobundle.export.tables import write_csv
from neurobundle.files import write_json
from neurobundle.load.answers import check_class_names
from neurobundle.measure.outputs import REPORT, SUMMARY, TABLE, fact_lines, versions

logger = logging.getLogger(__name__)

#: The rows of a table, each by column.
Rows = list[dict[str, Any]]


class RowEvaluation(ABC):
    """Collects cases, and writes ``per_case.csv``, ``summary.json`` and ``report.html``.

    Args:
        classes: their names.
        at_least: so many there must be.

    Raises:
        SettingError: if there are fewer, a name is blank or stands twice.
    """

    #: What the report is called if nobody says.
    TITLE: ClassVar[str]
    #: Scores that are logged.
    HEADLINE: ClassVar[tuple[str, ...]]

    def __init__(self, classes: Sequence[str], at_least: int = 1) -> None:
        self.classes = [str(name) for name in classes]
        check_class_names(self.classes, at_least)
        self.problems: dict[str, str] = {}

    @abstractmethod
    def score(self) -> dict[str, Any]:
        """Scores of the cases so far."""

    @abstractmethod
    def _table(self) -> tuple[list[str], Rows]:
        """The columns of ``per_case.csv``, and a row a case in the order of adding."""

    @abstractmethod
    def _page_writer(self) -> Callable[..., Path]:
        """What writes the report: a function of :mod:`neurobundle.measure.page`, which is heavy to import."""

    def _more(self) -> dict[str, Any]:
        """What the summary holds besides the scores."""
        return {}

    def write(
        self, output_dir: str | Path, facts: Mapping[str, Any] | None = None, title: str | None = None
    ) -> dict[str, Any]:
        """Write ``per_case.csv``, a row a case in the order of adding, ``summary.json`` and ``report.html``.

        Args:
            output_dir: made if need be.
            facts: added to the summary and shown in the report: where the data came from, which weights.
            title: of the report; names the task if None.

        Returns:
            The summary.

        Raises:
            EnvironmentFault: if they cannot be written.
        """
        output_dir, given = Path(output_dir), dict(facts or {})
        summary = {**self.score(), **self._more(), "failed": self.problems, **given, "versions": versions()}
        columns, rows = self._table()
        write_csv(output_dir / TABLE, columns, rows)
        write_json(output_dir / SUMMARY, summary)
        lines = fact_lines({**given, "versions": summary["versions"]})
        self._page_writer()(output_dir / REPORT, title or self.TITLE, summary, rows, self.problems, lines)
        for name in self.HEADLINE:
            logger.info("%s: %s, interval %s", name, summary[name]["mean"], summary[name]["interval"])
        return summary
