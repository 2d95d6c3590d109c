"""A bundle's configs, with overlays and settings, as the workflow that ``python -m monai.bundle run`` would run.

A *plan* is what that command line would be: config files, in order, and settings on top. Every command of ours
makes a plan first, so that what it runs can be shown, repeated and changed with stock MONAI.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from neurobundle.bundle.checks import SHARED_IDS, TRAIN_IDS, versions
from neurobundle.bundle.configfile import merge, read_config, unknown_overrides
from neurobundle.bundle.find import CLASS_NAMES, answers_of, find_overlay, read_metadata
from neurobundle.bundle.finding import BundleFiles
from neurobundle.errors import SettingError

logger = logging.getLogger(__name__)

#: Config files of each kind of work, in the order in which they are merged.
KINDS: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "evaluate": ("train", "evaluate"),
    "inference": ("inference",),
}
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Plan:
    """What to run: config files of one bundle, overlays, and settings that override ids."""

    bundle_dir: Path
    kind: str
    overlays: tuple[Path, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def config_files(self) -> list[Path]:
        """The config files in the order of merging."""
        return [config_file(self.bundle_dir, stem) for stem in KINDS[self.kind]] + list(self.overlays)

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings, with the bundle's root among them."""
        return {"bundle_root": str(self.bundle_dir), **self.settings}

    def value(self, name: str) -> Any:
        """What a top-level id is set to, as it is written: by the settings, else the overlays, else the configs.

        Args:
            name: the id.

        Returns:
            None if nothing sets it.
        """
        return merge({}, *map(read_config, self.config_files), self.settings).get(name)

    def classes(self) -> list[str] | None:
        """The classes that the network answers, in the order of its outputs; None for a bundle that answers none.

        The metadata and the configs name those of the bundle itself, and must agree. An overlay or a setting may name
        others (``class_names``), for a network of its own.

        Raises:
            SettingError: if metadata and configs differ, or the names are no list of different words.
        """
        stated = answers_of(self.bundle_dir)
        if stated is None:
            return None
        own = Plan(self.bundle_dir, self.kind).value(CLASS_NAMES)
        if own is None:
            return stated
        if own != stated:
            raise SettingError(
                f"its classes are {', '.join(stated)} in metadata.json (channel_def), and {CLASS_NAMES} says {own}",
                "Make the two equal.",
                file=config_file(self.bundle_dir, KINDS[self.kind][0]),
            )
        return _class_list(self.value(CLASS_NAMES))

    def command(self) -> str:
        """The same work as a ``python -m monai.bundle run`` command line."""
        files = [str(path) for path in self.config_files]
        configs = Path(self.bundle_dir) / "configs"
        words = ["python", "-m", "monai.bundle", "run", "--config_file", files[0] if len(files) == 1 else str(files)]
        words += ["--meta_file", str(configs / "metadata.json"), "--logging_file", str(configs / "logging.conf")]
        for name, value in self.overrides.items():
            words += [f"--{name}", value if isinstance(value, str) else repr(value)]
        return shlex.join(words)

    def workflow(self) -> Any:
        """The plan as MONAI's ``ConfigWorkflow``, parsed and checked, not yet initialised.

        Raises:
            SettingError: if a setting names an id that the config does not have, or the device is not there.
        """
        from monai.bundle import ConfigParser, ConfigWorkflow

        # It warns that logging_file is False, which is what is wanted here.
        logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
        files = [str(path) for path in self.config_files]
        for file in files:
            read_config(file)  # stricter than MONAI's reader: duplicate keys, alias bombs
        _refuse_old_packages(self.bundle_dir)
        own = ConfigParser.load_config_files(files[: len(files) - len(self.overlays)])
        known = {**dict.fromkeys(SHARED_IDS + TRAIN_IDS), **own}
        for overlay in self.overlays:
            refuse_unknown(known, read_config(overlay), overlay)
        merged = ConfigParser.load_config_files(files)
        refuse_unknown(merged, self.settings, self.config_files[0])
        _require_device(self.settings.get("device", merged.get("device")))
        return ConfigWorkflow(
            config_file=files,
            meta_file=str(Path(self.bundle_dir) / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="infer" if self.kind == "inference" else "train",
            **self.overrides,
        )


def make_plan(
    bundle_dir: Path, kind: str, overlays: Sequence[str] = (), settings: Mapping[str, Any] | None = None
) -> Plan:
    """Collect config files, overlays and settings.

    Args:
        bundle_dir: the bundle.
        kind: a key of :data:`KINDS`.
        overlays: names of files in ``configs/``, of the bundle's own overlays, or paths.
        settings: values by id.

    Raises:
        SettingError: if a config file of the bundle or an overlay is not there.
    """
    plan = Plan(
        bundle_dir, kind, tuple(find_overlay(name, bundle=bundle_dir) for name in overlays), dict(settings or {})
    )
    plan.config_files  # noqa: B018 - raises here, where the bundle is named, and not later
    return plan


def config_file(bundle_dir: Path, stem: str) -> Path:
    """The config file of a bundle with this stem.

    Raises:
        SettingError: if there is none.
    """
    for suffix in SUFFIXES:
        path = bundle_dir / "configs" / f"{stem}{suffix}"
        if path.is_file():
            return path
    raise SettingError(
        f"the bundle has no configs/{stem}.yaml", "Is this a bundle's folder? See `neurobundle list`.", file=bundle_dir
    )


def refuse_unknown(config: Mapping[str, Any], settings: Mapping[str, Any], file: Path | None = None) -> None:
    """Refuse a setting whose id the config does not have; MONAI would add it in silence.

    Args:
        config: the merged config.
        settings: values by id; ``a::b`` and ``a#b`` reach inside.
        file: where the settings stand, if they stand in a file.

    Raises:
        SettingError: names the id and the closest known one.
    """
    problems = unknown_overrides(config, settings)
    if problems:
        raise SettingError("; ".join(problems), "The file's top lists the ids to set.", file=file)


def _class_list(names: Any) -> list[str]:
    from neurobundle.load.answers import check_class_names  # numpy comes with it

    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingError(f"{CLASS_NAMES} is {names!r}, which is no list of words", "Write it out: [glioma, other].")
    check_class_names(names, at_least=2)
    return names


def _refuse_old_packages(bundle_dir: Path) -> None:
    """Warn of packages of another version than the bundle was made with; refuse those that cannot serve."""
    for finding in versions(BundleFiles(bundle_dir, metadata=read_metadata(bundle_dir))):
        if finding.level == "fail":
            raise SettingError(finding.message, finding.way_out, file=bundle_dir)
        logger.info("%s: %s", bundle_dir.name, finding.message)


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """``id=value`` words as a dictionary; a value is read as YAML.

    >>> parse_settings(["epochs=3", "amp=true", "window=[8, 8, 8]", "learning_rate=1e-4"])
    {'epochs': 3, 'amp': True, 'window': [8, 8, 8], 'learning_rate': 0.0001}

    Raises:
        SettingError: for a word without ``=`` or a value that is no YAML.
    """
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise SettingError(f"--set wants id=value, got {word!r}", "For example: --set epochs=10.")
        try:
            settings[name] = _number_or(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise SettingError(f"the value of {name!r} cannot be read: {value!r}", "Put it in quotes.") from error
    return settings


def _number_or(value: Any) -> Any:
    """PyYAML reads ``1e-4`` as text (YAML 1.1 wants ``1.0e-4``); everybody else means the number."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", value):
        return float(value)
    return value


def device_setting(device: str) -> dict[str, str]:
    """``--device`` as a setting: nothing for ``auto``, which leaves the choice to the config.

    Raises:
        SettingError: for another word, or for CUDA where there is none.
    """
    if device == "auto":
        return {}
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise SettingError(f"--device must be auto, cpu, cuda or cuda:N, got {device!r}", "Leave it out for auto.")
    _require_device(device)
    return {"device": device}


def _require_device(device: Any) -> None:
    """Refuses a CUDA device by name where there is none; what else a config may say is torch's to judge."""
    kind, _, index = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind != "cuda" or (index and not index.isdigit()):
        return
    import torch

    if int(index or 0) >= torch.cuda.device_count():
        cause = f"there is no {device}: this machine has {torch.cuda.device_count()} CUDA devices"
        raise SettingError(cause, "Use --device cpu.")
