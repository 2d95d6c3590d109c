"""What counts for a result, and what does not."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose

from neurobundle import memory
from neurobundle.bundle import fingerprint
from neurobundle.bundle.workflow import make_plan
from neurobundle.prepare import mri_preprocessing

from ..conftest import ROOT

BUNDLE = ROOT / "bundles" / "hippocampus_segmentation"


def of_settings(**settings: Any) -> str:
    return fingerprint.of_config(make_plan(BUNDLE, "inference", (), settings).workflow().parser.get())


@functools.cache
def plain() -> str:
    return of_settings()


@pytest.mark.parametrize(
    "settings",
    [{name: "elsewhere"} for name in ("output_dir", "dataset_dir", "ckpt_dir", "datalist")]
    + [{"num_workers": 3}, {"cache_rate": 0.5}, {"max_cases": 1}, {"resume": True}],
    ids=lambda settings: next(iter(settings)),
)
def test_what_cannot_change_a_voxel_does_not_count(settings: dict[str, Any]) -> None:
    assert of_settings(**settings) == plain()


@pytest.mark.parametrize(
    "settings",
    [
        {"window": [32, 32, 32]},
        {"network_size": "tiny"},
        {"amp": True},
        {"fold": 0},
        {"inferer::inferer::inferer::inferer::overlap": 0.25},
        {"preprocessing::spacing_mm": [1.0, 1.0, 1.2]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_can_does(settings: dict[str, Any]) -> None:
    assert of_settings(**settings) != plain()


def test_the_place_of_a_bundle_does_not_count(tmp_path: Path) -> None:
    (tmp_path / BUNDLE.name).symlink_to(BUNDLE)
    other = make_plan(tmp_path / BUNDLE.name, "inference").workflow().parser.get()
    assert fingerprint.of_config(other) == plain()


def parts(**changes: Any) -> str:
    settings = {"roi_size": (16, 16, 16), "overlap": 0.5, **changes}
    preparation = mri_preprocessing(["image"], spacing_mm=(1.0, 1.0, 1.0))
    return fingerprint.of_parts(preprocessing=preparation, inferer=SlidingWindowInferer(**settings))


def test_built_parts_are_told_apart_by_their_settings() -> None:
    assert parts() == parts()
    assert parts() != parts(overlap=0.25)
    assert fingerprint.of_parts(a=mri_preprocessing(["image"])) != fingerprint.of_parts(
        a=mri_preprocessing(["image"], upper=99.0)
    )


def test_a_described_object_never_holds_an_address_or_a_path(tmp_path: Path) -> None:
    thing = Compose([functools.partial(np.clip, a_min=0, a_max=1), lambda x: x])
    thing.folder = tmp_path  # type: ignore[attr-defined]
    text = str(fingerprint.described(thing))
    assert " at 0x" not in text
    assert str(tmp_path) not in text


def test_an_object_that_holds_itself_is_described() -> None:
    class Loop:
        def __init__(self) -> None:
            self.me = self

    assert fingerprint.of_parts(a=Loop()) == fingerprint.of_parts(a=Loop())


def test_a_folder_counts_its_files_and_their_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x.dcm").write_bytes(b"1")
    assert fingerprint.of_input(tmp_path / "a") == fingerprint.of_input(tmp_path / "b")
    (tmp_path / "b" / "deep" / "x.dcm").rename(tmp_path / "b" / "deep" / "y.dcm")
    assert fingerprint.of_input(tmp_path / "a") != fingerprint.of_input(tmp_path / "b")


def test_a_file_is_its_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"1")
    assert fingerprint.of_input(tmp_path / "a") == fingerprint.of_input(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"2")
    assert fingerprint.of_input(tmp_path / "a") != fingerprint.of_input(tmp_path / "b")


def test_versions_name_what_computes() -> None:
    assert set(fingerprint.versions()) == {"neurobundle", "python", "monai", "torch", "numpy", "nibabel"}


def test_the_peak_is_of_its_own_case() -> None:
    """A large case does not stand in the figure of the small one after it."""
    if not memory.resident_mib():
        pytest.skip("this system says nothing of a process's memory")
    memory.reset_peak()
    array = np.ones((64, 2**20))
    large = memory.peak_mib()
    del array
    memory.reset_peak()
    assert memory.peak_mib() < large - 300
