"""Two pictures for a bundle's card: reliability before and after a temperature, and risk against coverage."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.files import write_atomic
from neurobundle.measure.charts import BLUE, GREY, ORANGE

RELIABILITY, RISK_COVERAGE = "reliability.png", "risk_coverage.png"

#: Inches of one panel, and dots an inch.
_WIDTH, _HEIGHT, _DOTS = 4.2, 3.8, 110


def write_reliability(
    path: Path,
    before: Mapping[str, Sequence[Mapping[str, Any]]],
    after: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Path:
    """Draw how often voxels are right that were predicted with a given confidence; a panel a structure.

    Args:
        path: a PNG file.
        before: the pooled bins of each structure at temperature 1, as
            :func:`neurobundle.measure.calibration_summary.summarise_calibration` gives them.
        after: the same with each part at the temperature of the others.

    Raises:
        EnvironmentFault: if it cannot be written.
    """

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(before), squeeze=False)[0]
        for axes, name in zip(panels, before, strict=True):
            axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
            for bins, colour, word in ((before[name], ORANGE, "before"), (after[name], BLUE, "after")):
                full = [one for one in bins if one["count"]]
                confidence, right = ([one[key] for one in full] for key in ("confidence", "accuracy"))
                axes.plot(confidence, right, "o-", color=colour, markersize=4, linewidth=1.5, label=word)
            axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share right", title=name)
            axes.grid(color="#dddddd")
            axes.legend(loc="upper left", frameon=False)

    return write_atomic(path, _png(draw, len(before)))


def write_risk_coverage(path: Path, curve: np.ndarray, areas: Mapping[str, float | None]) -> Path:
    """Draw the mean risk, 1 - Dice, of the share of the cases that is kept, the most certain first.

    Args:
        path: a PNG file.
        curve: coverage and risk ``(2, steps)``.
        areas: ``aurc``, ``aurc_best`` and ``aurc_random``.

    Raises:
        EnvironmentFault: if it cannot be written.
    """

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(curve[0], curve[1], color=BLUE, linewidth=2, label=f"by case score, area {areas['aurc']:.3f}")
        at_random = areas["aurc_random"] or 0.0
        axes.plot([0, 1], [at_random] * 2, "--", color=GREY, label=f"at random, {at_random:.3f}")
        axes.set(xlim=(0, 1), ylim=(0, 1.4 * max(float(curve[1].max()), at_random) or 1))
        axes.set(xlabel="share kept, most certain first", ylabel="mean 1 - Dice")
        axes.set_title(f"best order possible: {areas['aurc_best']:.3f}")
        axes.grid(color="#dddddd")
        axes.legend(loc="upper left", frameon=False)

    return write_atomic(path, _png(draw, 1))


def _png(draw: Callable[[Any], None], panels: int) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The user's own matplotlib settings must not change a picture.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"text.parse_math": False, "font.size": 10, "axes.axisbelow": True})
        figure = Figure(figsize=(_WIDTH * panels, _HEIGHT), dpi=_DOTS, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
