"""How trainings went: the scalars of their TensorBoard files, drawn by epoch.

A *curve* is a scalar by epoch, as :class:`neurobundle.train.EpochScalars` wrote it: ``train_loss`` of the trainer, and
whatever the evaluator's metrics are called. What was written twice, because a training was stopped and went on,
counts as it was written last.
"""

from __future__ import annotations

import io
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurobundle.files import write_atomic
from neurobundle.measure.outputs import CURVES

logger = logging.getLogger(__name__)

#: Where a training's scalars lie in its folder.
SCALARS = "tensorboard"

#: Scalars that say nothing of how well it went.
_NOT_DRAWN = ("learning_rate",)

#: Inches of one panel, and dots an inch.
_WIDTH, _HEIGHT, _DOTS = 5.0, 3.6, 110

#: Told apart without red and green (Okabe & Ito 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#767676")

#: A curve's name, then its value by epoch.
Curves = dict[str, dict[int, float]]


def read_curves(folder: Path) -> Curves:
    """The scalars of a training.

    Args:
        folder: of TensorBoard's event files; it may be missing. A file that was cut off is read as far as it goes.

    Returns:
        The value by epoch of each scalar, both sorted; empty if there is none.
    """
    from tensorboard.backend.event_processing.event_file_loader import (  # type: ignore[import-untyped]
        EventFileLoader,
    )
    from tensorboard.util import tensor_util  # type: ignore[import-untyped]

    found: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = tensor_util.make_ndarray(value.tensor) if value.HasField("tensor") else None
                if number is None or number.shape != () or number.dtype.kind not in "fi":
                    continue
                written = found[value.tag].get(event.step, (-1.0, 0.0))[0]
                if event.wall_time >= written:
                    found[value.tag][event.step] = (event.wall_time, float(number))
    return {
        name: {epoch: number for epoch, (_, number) in sorted(values.items())} for name, values in sorted(found.items())
    }


def write_curves(output: Path, trainings: Mapping[str, Path]) -> Path | None:
    """Draw losses beside metrics: a line a training and scalar, the same colour for the same scalar.

    Args:
        output: the folder that gets ``curves.png``.
        trainings: the folder of each training, by its name.

    Returns:
        The picture; None where no training left a scalar to draw.

    Raises:
        EnvironmentFault: if it cannot be written.
    """
    curves = {name: _drawn(read_curves(folder / SCALARS)) for name, folder in trainings.items()}
    names = list(dict.fromkeys(scalar for own in curves.values() for scalar in own))
    if not names:
        logger.info("no training left curves to draw")
        return None
    panels = [panel for panel in ([n for n in names if _is_loss(n)], [n for n in names if not _is_loss(n)]) if panel]
    return write_atomic(output / CURVES, _picture(curves, panels))


def _drawn(curves: Curves) -> Curves:
    return {name: values for name, values in curves.items() if name not in _NOT_DRAWN}


def _is_loss(name: str) -> bool:
    return "loss" in name.lower()


def _picture(curves: Mapping[str, Curves], panels: list[list[str]]) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The user's own matplotlib settings must not change a picture.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(_WIDTH * len(panels), _HEIGHT), dpi=_DOTS, layout="constrained")
        FigureCanvasAgg(figure)
        for axes, scalars in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _panel(axes, curves, scalars)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _panel(axes: Any, curves: Mapping[str, Curves], scalars: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for number, scalar in enumerate(scalars):
        colour = _COLOURS[number % len(_COLOURS)]
        own = [values[scalar] for values in curves.values() if scalar in values]
        for n, values in enumerate(own):
            many = f"{scalar} ({len(own)} trainings)" if len(own) > 1 else scalar
            label = many if n == 0 else None
            # One point has no line.
            mark = "o" if len(values) == 1 else None
            axes.plot(list(values), list(values.values()), color=colour, linewidth=1.2, marker=mark, label=label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, frameon=False)
