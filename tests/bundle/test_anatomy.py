"""The anatomy bundle from Python, and the rule by which it finds hippocampi for the bundle of hippocampi."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from scipy import ndimage

from neurobundle.bundle import heads
from neurobundle.bundle.anatomy import BUNDLE, Anatomy, BrainMaskd, brain_mask, weights_file
from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.find import PATH_VARIABLE
from neurobundle.bundle.heads import find_places
from neurobundle.commands.run import Run
from neurobundle.errors import InputError, WeightsError
from neurobundle.load.scan import Scan
from neurobundle.postprocess.brain import CORTEX, WHITE_MATTER
from neurobundle.postprocess.brain_pose import HIPPOCAMPUS_MM
from neurobundle.prepare import N4BiasFieldCorrectiond, NormalizeIntensityd, TemplateLocator
from neurobundle.prepare.locate import PlaceError
from neurobundle.prepare.register import Registration, template_path

from ..anatomy_stub import LEFT, RIGHT, SCALP, dice, make_stub, phantom
from ..postprocess.test_brain import moved, placed

CPU = {"device": "cpu"}


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stub(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def here(stub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stub as the bundle that is found by its name."""
    monkeypatch.setenv(PATH_VARIABLE, str(stub))
    return stub


@pytest.fixture(scope="module")
def head() -> tuple[Scan, np.ndarray]:
    image, labels = phantom()
    return Scan(np.asarray(image.dataobj), image.affine), labels


# ----- labels and masks


def test_a_scan_in_memory_is_labelled_on_its_grid(here: Path, head: tuple[Scan, np.ndarray]) -> None:
    scan, truth = head
    anatomy = Anatomy(settings=CPU)
    labels = anatomy.labels(scan)
    assert labels.shape == truth.shape
    assert dice(labels == LEFT, truth == LEFT) > 0.97
    assert dice(labels == RIGHT, truth == RIGHT) > 0.97
    assert np.array_equal(anatomy.labels(scan), labels), "it is built once and labels again"
    assert list(anatomy._work.iterdir()) == [], "nothing of the scan is left"
    folder = anatomy._work
    del anatomy
    gc.collect()
    assert not folder.exists()


def test_the_brain_mask_has_no_scalp(here: Path, head: tuple[Scan, np.ndarray]) -> None:
    scan, truth = head
    mask = brain_mask(scan, settings=CPU)
    assert mask.dtype == bool
    assert dice(mask, truth > 0) > 0.97
    assert not mask[np.asarray(scan.data) == SCALP].any()
    assert (brain_mask(scan, 4.0, settings=CPU) | ~mask).all()


def test_no_brain_is_an_error(here: Path) -> None:
    dark = Scan(np.pad(np.full((20, 20, 20), 30.0), 8) + np.indices((36, 36, 36))[0], np.diag([2.0, 2.0, 2.0, 1.0]))
    anatomy = Anatomy(settings=CPU)
    anatomy.labels = lambda scan: np.zeros(scan.data.shape, np.uint8)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="no brain was found"):
        anatomy.brain_mask(dark)


def test_without_weights_it_says_how_to_get_them(stub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / BUNDLE
    for name in ("metadata.json", "inference.yaml"):
        target = empty / "configs" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((stub / BUNDLE / "configs" / name).read_bytes())
    monkeypatch.setenv(PATH_VARIABLE, str(tmp_path))
    assert weights_file() is None
    with pytest.raises(WeightsError, match="has no weights"):
        Anatomy()
    monkeypatch.setenv(PATH_VARIABLE, str(stub))
    assert weights_file() == stub / BUNDLE / "models" / "model.pt"


def test_the_mask_serves_the_bias_field_and_the_tissue_peak(here: Path, head: tuple[Scan, np.ndarray]) -> None:
    """A transform in a chain; it can be sent to another process."""
    scan, truth = head
    noisy = scan.data + 5 * np.random.default_rng(0).standard_normal(scan.data.shape) * (scan.data > 0)
    image = MetaTensor(torch.from_numpy(noisy[None].astype(np.float32)), affine=torch.from_numpy(scan.affine))
    mask = BrainMaskd("image", settings=CPU)
    chain = Compose(
        [
            mask,
            N4BiasFieldCorrectiond("image", mask_key="brain", iterations=(5,)),
            NormalizeIntensityd("image", method="tissue_peak", region="mask", mask_key="brain"),
        ]
    )
    out = chain({"image": image})
    assert out["brain"].shape == image.shape
    assert dice(out["brain"][0].numpy() > 0, truth > 0) > 0.97
    white = out["image"][0][torch.from_numpy(truth == RIGHT)]
    assert abs(float(white.median())) < 1.0, "white matter is 0"
    assert pickle.loads(pickle.dumps(mask))._anatomy is None


def test_bad_input_is_an_error_of_ours_that_names_no_scratch_file(here: Path) -> None:
    """A flat image, one of four axes, one without an affine: nothing of them is left."""
    anatomy = Anatomy(settings=CPU)
    for data in (np.full((9, 9, 9), np.nan), np.ones((4, 4, 4, 3))):
        with pytest.raises(InputError) as caught:
            anatomy.labels(Scan(data, np.eye(4)))
        assert "neurobundle-" not in str(caught.value)
        assert list(anatomy._work.iterdir()) == []
    with pytest.raises(InputError, match="image has no affine"):
        BrainMaskd("image", settings=CPU)({"image": torch.ones(1, 4, 4, 4)})


# ----- where the hippocampi are


class Known:
    """An anatomy bundle that gives one label map, whatever the scan."""

    def __init__(self, labels: np.ndarray) -> None:
        self.map = labels

    def labels(self, scan: Scan) -> np.ndarray:
        return self.map


def t1_of(labels: np.ndarray) -> np.ndarray:
    """A scan whose white matter is bright, cortex less, and all else dark."""
    image = np.full(labels.shape, 20.0, np.float32)
    image[np.isin(labels, CORTEX)] = 60
    image[np.isin(labels, WHITE_MATTER)] = 100
    return image


class Asked:
    """Gives an anatomy bundle, and knows whether it was asked."""

    def __init__(self, labels: np.ndarray | None) -> None:
        self.bundle, self.times = None if labels is None else Known(labels), 0

    def __call__(self) -> Known | None:
        self.times += 1
        return self.bundle


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch):
    """Sets what the registration finds: a similarity, and the template where the head is."""

    def found(similarity: float, matrix: np.ndarray | None = None) -> None:
        there = Registration(np.eye(4) if matrix is None else matrix, similarity, 1.0)
        monkeypatch.setattr(heads, "register_head", lambda image, affine: there)

    return found


LOCATOR = TemplateLocator(mirror="right")


def test_a_sure_registration_asks_nobody(registered) -> None:
    labels, affine = placed(np.eye(4))
    registered(heads.SURE_SIMILARITY)
    ask = Asked(labels)
    found = find_places(Scan(t1_of(labels), affine), LOCATOR, ask)
    assert (found.by, ask.times) == ("registration", 0)
    assert found.why == "the head agrees with the template to 0.64"
    for place, expected in zip(found.places, LOCATOR.places(Registration(np.eye(4), 0.64, 1.0)), strict=True):
        assert np.array_equal(place.affine, expected.affine)


@pytest.mark.parametrize(
    ("similarity", "why"),
    [(0.2, "the registration was refused; "), (0.6, "the head agrees with the template to 0.60, below 0.64; ")],
    ids=["refused", "weak"],
)
def test_an_unsure_registration_gives_way(registered, similarity: float, why: str) -> None:
    """The boxes' middles are the labels' own, turned as the head is turned, left and right apart."""
    matrix = moved(20, shift=(5, 5, -5))
    labels, affine = placed(matrix)
    registered(similarity, moved(0, shift=(9, 9, 9)))
    found = find_places(Scan(t1_of(labels), affine), LOCATOR, Asked(labels))
    assert found.by == "anatomy"
    assert found.why.startswith(why)
    for place, sign in zip(found.places, (1, -1), strict=True):
        there = nib.affines.apply_affine(matrix, np.array(HIPPOCAMPUS_MM) * (sign, 1, 1))
        assert np.linalg.norm(place.centre_mm - there) < 1.0
        assert np.abs(place.affine[:3, :3] - matrix[:3, :3]).max() < 0.03
        assert place.shape == LOCATOR.shape
    assert [(place.side, place.mirrored) for place in found.places] == [("left", False), ("right", True)]


def test_boxes_along_the_scanner_stay_so(registered) -> None:
    labels, affine = placed(moved(20))
    registered(0.2)
    found = find_places(Scan(t1_of(labels), affine), TemplateLocator(turn="scanner"), Asked(labels))
    assert np.array_equal(found.places[0].affine[:3, :3], np.eye(3))


def test_labels_that_cannot_be_leave_a_weak_registration(registered) -> None:
    labels, affine = placed(np.eye(4), without=(14,))
    registered(0.6)
    found = find_places(Scan(t1_of(labels), affine), LOCATOR, Asked(labels))
    assert found.by == "registration"
    assert "by the anatomy bundle: the left hippocampus would have 0 voxels" in found.why


def test_without_the_bundle_all_is_as_before(registered) -> None:
    labels, affine = placed(np.eye(4))
    registered(0.6)
    assert find_places(Scan(t1_of(labels), affine), LOCATOR, Asked(None)).by == "registration"
    registered(0.2)
    for ask in (None, Asked(None)):
        with pytest.raises(PlaceError, match=r"below 0\.5") as caught:
            find_places(Scan(t1_of(labels), affine), LOCATOR, ask)
        assert "anatomy" not in caught.value.cause
        assert len(caught.value.places) == 2


def test_where_both_fail_both_say_why(registered) -> None:
    labels, affine = placed(np.eye(4), without=(29,))
    registered(0.2)
    with pytest.raises(PlaceError, match=r"to 0\.20.*by the anatomy bundle: the right hippocampus would have 0"):
        find_places(Scan(t1_of(labels), affine), LOCATOR, Asked(labels))


def test_another_sequence_than_t1_is_no_case_for_it(registered) -> None:
    """The registration refuses a T2 by its contrast; the anatomy bundle would take it, and so says no itself."""
    labels, affine = placed(np.eye(4))
    registered(0.2)
    with pytest.raises(PlaceError, match="so this is no T1 scan"):
        find_places(Scan(120 - t1_of(labels), affine), LOCATOR, Asked(labels))


def test_weights_that_are_not_believed_stop_no_head(registered) -> None:
    labels, affine = placed(np.eye(4))

    def damaged() -> None:
        raise WeightsError("its sha256 is another", "Copy it again.")

    registered(0.6)
    found = find_places(Scan(t1_of(labels), affine), LOCATOR, damaged)
    assert (found.by, found.why.endswith("by the anatomy bundle: its sha256 is another")) == ("registration", True)


@pytest.mark.slow
def test_a_head_is_segmented_in_the_places_of_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registered
) -> None:
    """The template, its registration refused: the hippocampi are those that the registration's own places give."""
    pytest.importorskip("nilearn")
    template = nib.load(template_path())

    def run(folder: str) -> CaseResult:
        found = Run("hippocampus_segmentation", tmp_path / folder, pictures=False, settings=CPU)([template_path()])
        return found.results[0]

    before = run("before")
    assert [place["by"] for place in before.places] == ["registration"] * 2
    labels, affine = placed(np.eye(4))
    onto = np.linalg.inv(affine) @ template.affine
    there = ndimage.affine_transform(labels, onto[:3, :3], onto[:3, 3], output_shape=template.shape, order=0)
    monkeypatch.setattr(heads, "_no_t1", lambda image, labels: [])  # balls are no tissue
    monkeypatch.setattr(Run, "_anatomy", lambda self: Known(there))
    registered(0.2)
    after = run("after")
    assert [(place["side"], place["by"]) for place in after.places] == [("left", "anatomy"), ("right", "anatomy")]
    assert after.places[0]["why"].startswith("the registration was refused")
    for name, ml in before.volumes_ml.items():
        assert after.volumes_ml[name] == pytest.approx(ml, rel=0.25), name
