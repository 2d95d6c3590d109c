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
        self.inferer, self.network = self.part("inferer"), self.part("network")
        self.postprocessing = self.part("postprocessing")
        for handler in self.loaders():
            handler(self.evaluator)
        self.network.eval()

    def loaders(self) -> list[Any]:
        """The config's handlers that load weights; ours, and MONAI's in other people's bundles."""
        from monai.handlers import CheckpointLoader

        from neurobundle.networks import WeightsLoader

        return [item for item in self.part("handlers") if isinstance(item, WeightsLoader | CheckpointLoader)]

    def part(self, name: str) -> Any:
        """A built part of the config."""
        return self.workflow.parser.get_parsed_content(name)

    def has(self, name: str) -> bool:
        """Whether the config defines a part."""
        return name in self.workflow.parser

    def predict(self, image: Path, case: str) -> None:
        """Run the config's chain on one image, as its evaluator would; its postprocessing writes the result.

        The parts are called here one by one, since an ignite engine does not run again after an exception.

        Args:
            image: a file.
            case: names the output.
        """
        import torch
        from monai.data.utils import decollate_batch, list_data_collate

        batch = list_data_collate([self.preprocessing({"image": str(image), "case": case})])
        with torch.no_grad():
            batch["pred"] = self.inferer(batch["image"].to(self.evaluator.state.device), self.network)
        for item in decollate_batch(batch):
            self.postprocessing(item)
