"""``neurobundle info NAME --blocks``: the blocks of a bundle's network, from the input to the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurobundle.bundle.workflow import make_plan
from neurobundle.commands.results import aligned
from neurobundle.errors import SettingError

#: The id of a bundle's network before it is moved to a device.
NETWORK = "network_def"


def network_blocks(
    bundle_dir: Path, overlays: Sequence[str] = (), settings: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Number, name, tensors and parameters of each block; no weights are read.

    Args:
        bundle_dir: the bundle.
        overlays: names or paths, as for a run: another backbone, for instance.
        settings: values by id.

    Raises:
        SettingError: if the bundle's inference has no network of its own.
        MissingPackageError: if the network's package is not installed.
    """
    from neurobundle.networks.blocks import blocks_of

    parser = make_plan(bundle_dir, "inference", overlays, settings).workflow().parser
    if NETWORK not in parser:
        raise SettingError(f"the bundle's inference config has no {NETWORK}", "Is it one of ours?", file=bundle_dir)
    blocks = blocks_of(parser.get_parsed_content(NETWORK))
    return [
        {"block": number, "name": block.name, "tensors": len(block.parameters), "parameters": block.count}
        for number, block in enumerate(blocks, start=1)
    ]


def blocks_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of :func:`network_blocks` for people, with a line of totals."""
    columns = ("block", "name", "tensors", "parameters")
    table = [list(columns), *([str(row[column]) for column in columns] for row in rows)]
    table.append(["", "all", *(str(sum(row[column] for row in rows)) for column in columns[2:])])
    return "\n".join(aligned(table))
