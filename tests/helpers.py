"""Plain functions that several tests use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Maker = Callable[..., tuple[Path, Path]]


def small_datalist(folder: Path, make_pair: Maker, cases: int = 4, folds: int = 2) -> Path:
    """A datalist of made-up crops, two folds."""
    items = []
    for n in range(cases):
        image, label = make_pair(folder, f"case_{n}", seed=n, shape=(20, 24, 20))
        items.append(
            {
                "image": str(image.relative_to(folder)),
                "label": str(label.relative_to(folder)),
                "case": f"case_{n}",
                "subject": f"person-{n}",
                "fold": n % folds,
            }
        )
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": items}))
    return path


#: Small enough that a training epoch of the full config takes a second.
TINY = {"network_size": "tiny", "patch_size": [16, 16, 16], "window": [16, 16, 16], "epochs": 1, "val_interval": 1}
