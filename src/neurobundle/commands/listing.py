"""``neurobundle list`` and ``neurobundle info``: what there is, read from metadata alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neurobundle.bundle.find import bundles, info


def listing() -> list[dict[str, str]]:
    """Name, version, task and folder of each bundle that can be run by its name."""
    found = [info(folder) for folder in bundles().values()]
    return [{key: str(item[key]) for key in ("name", "version", "task", "path")} for item in found]


def description_text(found: Mapping[str, Any]) -> str:
    """What :func:`neurobundle.bundle.find.info` says of a bundle, for people.

    Args:
        found: what ``info`` returned.
    """
    rows = {
        "folder": found["path"],
        "input": f"{found['modality']}: " + ", ".join(map(str, found["channels"].values())),
        "labels": ", ".join(f"{value} {name}" for value, name in found["labels"].items()),
        "weights": ", ".join(weights["file"] for weights in found["weights"]) or "none",
        **{f"licence of the {part}": licence for part, licence in found["licenses"].items()},
        "data": found["data_source"],
        "intended use": found["intended_use"],
    }
    width = max(map(len, rows))
    lines = [f"{found['name']} {found['version']}", f"  {found['description']}"]
    return "\n".join([*lines, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])
