"""What ``monailabel start_server --app $(neurobundle label-app)`` loads."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from neurobundle import __version__
from neurobundle.bundle.configfile import read_config
from neurobundle.bundle.find import channels_of, find_bundle, reference_of, takes_pictures
from neurobundle.bundle.workflow import config_file
from neurobundle.commands.run import UNCERTAINTY_ID
from neurobundle.commands.sources import Wanted
from neurobundle.errors import SettingError
from neurobundle.label.app.datastore import StudyDatastore
from neurobundle.label.app.tasks import Agreement, Ask, CaseScores, Uncertain
from neurobundle.label.app.training import Learn
from neurobundle.label.archive import open_store


class NeurobundleApp(MONAILabelApp):
    """Serves bundles on studies.

    Args:
        app_dir: this file's folder.
        studies: the folder of studies, or the address of an archive.
        conf: ``bundles``, names with commas between them; ``store``, the folder that the app keeps.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        names = [name for name in conf.get("bundles", "").split(",") if name]
        if not names or not conf.get("store"):
            raise SettingError("the app wants --conf bundles NAME,NAME and --conf store DIR", "Use neurobundle label.")
        store = Path(conf["store"])
        found = [find_bundle(name) for name in names]
        twice = next((one.name for one in found if [each.name for each in found].count(one.name) > 1), None)
        if twice is not None:
            raise SettingError(f"two bundles are called {twice}", "Rename the folder of one of them.")
        self.bundles = [_copied(bundle, store / "bundles") for bundle in found]
        first = self.bundles[0]
        wanted = Wanted(channels_of(first), reference_of(first), pictures=takes_pictures(first))
        self.store = open_store(store, studies, wanted, self.bundles)
        super().__init__(
            app_dir, studies, conf, "Neurobundle", "Bundles for brain MRI. Not for diagnosis.", __version__
        )

    def init_datastore(self) -> Datastore:
        """The store, with all studies gathered, or listed."""
        return StudyDatastore(self.store)

    def init_infers(self) -> dict[str, InferTask]:
        """One for each bundle."""
        return {bundle.name: Ask(bundle, self.store) for bundle in self.bundles}

    def init_trainers(self) -> dict[str, TrainTask]:
        """One for each bundle that has a training."""
        able = [bundle for bundle in self.bundles if any((bundle / "configs").glob("train.*"))]
        return {bundle.name: Learn(bundle, self.store) for bundle in able}

    def init_strategies(self) -> dict[str, Strategy]:
        """In the order of the clients' menu."""
        return {"uncertain": Uncertain(), "first": First(), "random": Random()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Case scores of the bundles that can say how sure they are, and how well each agrees with the final labels."""
        sure = [bundle for bundle in self.bundles if UNCERTAINTY_ID in read_config(config_file(bundle, "inference"))]
        return {
            **{f"case_score_{bundle.name}": CaseScores(Ask(bundle, self.store)) for bundle in sure},
            **{f"agreement_{bundle.name}": Agreement(Ask(bundle, self.store)) for bundle in self.bundles},
        }


def _copied(bundle: Path, folder: Path) -> Path:
    """The store's own copy of a bundle, which a training may change; whole or not at all."""
    copy = folder / bundle.name
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as new:
            ignored = shutil.ignore_patterns("fold*.pt", "docs")
            shutil.copytree(bundle, Path(new) / bundle.name, ignore=ignored).rename(copy)
    return copy
