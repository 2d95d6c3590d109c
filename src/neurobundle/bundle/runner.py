"""Runs an inference plan over cases, one at a time, so that one case's fault is that case's alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neurobundle.bundle.workflow import Plan


class CaseRunner:
    """An inference workflow that is built once and then predicts case after case.

    Args:
        plan: of kind ``inference``.

    Raises:
        WeightsError: if the weights cannot be trusted; before any case is touched.
        SettingError: for a config that cannot be built.
    """

    def __init__(self, plan: Plan) -> None:
        self.workflow = plan.workflow()
        # The cases come one by one below; the config's own list is not looked at.
        self.workflow.parser["dataset::data"] = []
        self.workflow.initialize()
        self.evaluator = self.part("evaluator")
        self.preprocessing = self.part("preprocessing")
        for handler in self.part("handlers"):
            if hasattr(handler, "loaded"):
                handler(self.evaluator)

    def part(self, name: str) -> Any:
        """A built part of the config."""
        return self.workflow.parser.get_parsed_content(name)

    def has(self, name: str) -> bool:
        """Whether the config defines a part."""
        return name in self.workflow.parser

    def predict(self, image: Path, case: str) -> None:
        """Run the whole config on one image; its postprocessing writes the result.

        Args:
            image: a file.
            case: names the output.
        """
        from monai.data import DataLoader, Dataset

        data = Dataset([{"image": str(image), "case": case}], transform=self.preprocessing)
        self.evaluator.data_loader = DataLoader(data, batch_size=1)
        self.evaluator.state.epoch_length = 1
        self.evaluator.run()
