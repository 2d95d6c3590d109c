"""What a check of the doctor returns, and the bundle as the checks see it.

A *finding* is one sentence about a bundle: what was looked at, how bad it is, and the way out. A bundle is *ours* if
its metadata requires the package ``neurobundle``; what is only our convention is a warning for others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from neurobundle.bundle import configfile
from neurobundle.bundle.find import CONFIG_STEMS as CONFIG_STEMS
from neurobundle.bundle.find import is_bundle, own_overlays, read_metadata
from neurobundle.errors import ExitCode, SettingError

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One result of one check."""

    check: str
    level: Level
    message: str
    way_out: str = ""


@dataclass
class BundleFiles:
    """A bundle, its readable files parsed.

    Args:
        root: the folder.
        metadata: its metadata, empty if they cannot be parsed.
        configs: parsed configs by stem (``train``, ``inference`` ...), those that can be parsed.
        unreadable: why the others cannot.
    """

    root: Path
    metadata: dict[str, Any] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    unreadable: list[SettingError] = field(default_factory=list)

    @property
    def ours(self) -> bool:
        """Whether the bundle says that it is made of this library."""
        required = self.metadata.get("required_packages_version")
        return isinstance(required, dict) and "neurobundle" in required

    @property
    def strict(self) -> Level:
        """The level of a breach of what is only our own convention."""
        return "fail" if self.ours else "warn"

    def alone(self) -> dict[str, dict[str, Any]]:
        """The configs that run alone."""
        return {stem: self.configs[stem] for stem in ("train", "inference") if stem in self.configs}

    def merged(self) -> dict[str, dict[str, Any]]:
        """All configs as they run: overlays laid over train."""
        runs = self.alone()
        for stem in ("evaluate", "multi_gpu_train"):
            if stem in self.configs and "train" in self.configs:
                runs[stem] = configfile.merge(self.configs["train"], self.configs[stem])
        return runs

    def overlaid(self) -> dict[str, dict[str, Any]]:
        """The bundle's own overlays, laid over train."""
        train = self.configs.get("train", {})
        return {
            stem: configfile.merge(train, self.configs[stem])
            for stem in sorted(own_overlays(self.root).keys() & self.configs)
        }


def open_bundle(bundle_dir: str | Path) -> BundleFiles:
    """Parse what can be parsed.

    Raises:
        SettingError: if the folder is no bundle.
    """
    root = Path(bundle_dir)
    if not is_bundle(root):
        raise SettingError(
            "this is no bundle: it has no configs/metadata.json" if root.is_dir() else "there is no such folder",
            "Give the path of a bundle's folder.",
            file=root,
        )
    files = BundleFiles(root)
    try:
        files.metadata = read_metadata(root)
    except SettingError as error:
        files.unreadable.append(error)
    for path in sorted((root / "configs").iterdir()):
        if path.suffix not in configfile.CONFIG_SUFFIXES or path.name == "metadata.json":
            continue
        try:
            files.configs.setdefault(path.stem, configfile.read_config(path))
        except SettingError as error:
            files.unreadable.append(error)
    return files


def verdict(findings: Iterable[Finding]) -> ExitCode:
    """0, or 6 if a check failed.

    >>> verdict([Finding("name", "warn", "odd")]).name, verdict([Finding("name", "fail", "bad")]).name
    ('OK', 'AUDIT')
    """
    return ExitCode.AUDIT if any(finding.level == "fail" for finding in findings) else ExitCode.OK


def as_table(findings: Sequence[Finding]) -> str:
    """One line a finding, worst last, and a line that counts.

    >>> print(as_table([Finding("name", "ok", "a_segmentation")]))
    ok    name  a_segmentation
    1 ok, 0 warnings, 0 failures
    """
    width = max((len(finding.check) for finding in findings), default=0)
    order = {"ok": 0, "warn": 1, "fail": 2}
    lines = []
    for finding in sorted(findings, key=lambda finding: order[finding.level]):
        way_out = f". {finding.way_out}" if finding.way_out else ""
        lines.append(f"{finding.level:<4}  {finding.check:<{width}}  {finding.message}{way_out}")
    counts = [sum(finding.level == level for finding in findings) for level in order]
    lines.append(f"{counts[0]} ok, {counts[1]} warnings, {counts[2]} failures")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    """The same for programs: ``{"findings": [...], "exit_code": 0}``."""
    content = {"findings": [asdict(finding) for finding in findings], "exit_code": int(verdict(findings))}
    return json.dumps(content, indent=2, sort_keys=True)
