"""The doctor: everything that can be known about a bundle without data and without a network connection.

A *check* is a function from a bundle to findings; it yields what is wrong, and nothing if all is well. Checks that
build parts of the bundle run only if no other check found code that a config has no need of.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from neurobundle.bundle import checks, label_checks, probes, safety
from neurobundle.bundle.finding import BundleFiles, Finding, open_bundle
from neurobundle.bundle.finding import as_json as as_json
from neurobundle.bundle.finding import as_table as as_table
from neurobundle.bundle.finding import verdict as verdict

Check = Callable[[BundleFiles], Iterator[Finding]]

#: name -> (check, what an "ok" means); these only read.
READING: dict[str, tuple[Check, str]] = {
    "layout": (checks.layout, "all files are in their places"),
    "name": (checks.name, "the folder's name says what the bundle does"),
    "configs": (checks.configs, "all configs parse, and their references lead somewhere"),
    "python": (checks.python, "no code travels with it"),
    "targets": (safety.targets, "every _target_ is in monai, torch or neurobundle"),
    "expressions": (safety.expressions, "every expression is plain Python"),
    "metadata": (checks.metadata, "metadata.json is as the specification asks"),
    "dicom": (checks.dicom, "each structure has its codes, if any has"),
    "versions": (checks.versions, "the packages it asks for are installed"),
    "ids": (checks.ids, "overlays find all the ids that they set"),
    "label": (label_checks.label, "a MONAI Label server finds what it needs"),
    "agreement": (checks.agreement, "train, evaluate and inference agree on network and preprocessing"),
    "manifest": (probes.listed, "the weights are the listed ones"),
}

#: The same for checks that import MONAI and build parts.
BUILDING: dict[str, tuple[Check, str]] = {
    "importable": (probes.importable, "every _target_ can be imported"),
    "properties": (probes.properties, "MONAI's check_properties() misses nothing"),
    "components": (probes.components, "the parts that need no data can be built"),
    "label_parts": (label_checks.parts, "a MONAI Label server finds the loader, and drops what writes"),
    "weights": (probes.weights, "the weights fit the network, and its output is finite"),
}

#: A failure of one of these means: do not execute anything of this bundle.
GUARDS = ("targets", "expressions")


def examine(bundle_dir: str | Path, *, thorough: bool = True) -> list[Finding]:
    """Look at a bundle, anybody's.

    Args:
        bundle_dir: its folder.
        thorough: also import MONAI, build what needs no data, load the weights, and try them on noise.

    Returns:
        At least one finding a check: what is wrong, or one ``ok``.

    Raises:
        SettingError: if the folder is no bundle.
    """
    bundle = open_bundle(bundle_dir)
    findings = [finding for name, entry in READING.items() for finding in _run(name, *entry, bundle)]
    if not thorough:
        return findings
    if any(finding.level == "fail" and finding.check in GUARDS for finding in findings):
        message = f"its parts were not built, since {' or '.join(GUARDS)} failed"
        return [*findings, Finding("execution", "warn", message, "Correct those first.")]
    with _quiet():
        return findings + [finding for name, entry in BUILDING.items() for finding in _run(name, *entry, bundle)]


def _run(name: str, check: Check, all_well: str, bundle: BundleFiles) -> list[Finding]:
    """A check's findings; a bundle that breaks the check itself is a finding too."""
    try:
        found = list(check(bundle))
    except Exception as error:  # an unforeseen kind of malformed bundle must not hide the other checks
        message = f"the check could not be finished: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return [Finding(name, "fail", message, "The bundle is malformed in a way that this check did not expect.")]
    found = list(dict.fromkeys(found))
    problems = [finding for finding in found if finding.level != "ok"]
    return problems or found or [Finding(name, "ok", all_well)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MONAI's warnings and log lines are not for the doctor's reader; what matters becomes a finding."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
