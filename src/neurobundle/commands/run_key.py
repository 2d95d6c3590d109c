"""What of a run's parts a result depends on, besides the parsed config: entries of the key of its cases."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from neurobundle.bundle import fingerprint
from neurobundle.bundle.runner import CaseRunner


def parts_key(runner: CaseRunner) -> dict[str, Any]:
    """All of them; a part that is not used has no entry, so that cases that were finished without it stay finished.

    Args:
        runner: with the workflow built.
    """
    return {**_helper(runner), **_backend(runner), **_calibration(runner)}


def _helper(runner: CaseRunner) -> dict[str, str]:
    """The weights that may find a hippocampus, where there are any: a result depends on them too."""
    from neurobundle.bundle.anatomy import weights_file

    file = weights_file() if runner.has("head") else None
    return {"anatomy": fingerprint.of_input(file)} if file is not None else {}


def _backend(runner: CaseRunner) -> dict[str, dict[str, str]]:
    """What computes the network, if not PyTorch as it is: a result depends on that and on an exported file too."""
    from neurobundle.infer import backend_key  # torch comes with it

    key = backend_key(runner.inferer)
    return {"backend": key} if key else {}


def _calibration(runner: CaseRunner) -> dict[str, Any]:
    """What ``neurobundle calibrate`` chose, where the config says how sure it is: the numbers depend on it."""
    from neurobundle.postprocess.uncertainty import Uncertaintyd

    steps = getattr(runner.part("postprocessing"), "transforms", ())
    asked = [asdict(step.calibration) for step in steps if isinstance(step, Uncertaintyd) and step.enabled]
    return {"calibration": asked} if asked else {}
