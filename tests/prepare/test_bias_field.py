"""N4: pieces counted by hand, SimpleITK as the oracle, known fields found again, bad input named."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from scipy import ndimage

from neurobundle.errors import InputError, SettingError
from neurobundle.prepare.bias_correction import META_KEY, N4BiasFieldCorrectiond
from neurobundle.prepare.bias_field import (
    N4Settings,
    _refined,
    _thinned,
    find_bias_field,
    look_at,
    n4,
    otsu_threshold,
)
from neurobundle.prepare.separable import along_axes, spline_basis

SHAPE = (36, 44, 30)


def head(shape: tuple[int, ...] = SHAPE, seed: int = 0, strength: float = 1.0) -> tuple[np.ndarray, ...]:
    """A ball of three tissues with a smooth field: image, mask, log field."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    mask = sum(axis**2 for axis in axes) < 0.85
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    texture /= texture.std()
    tissue = np.select([texture > 0.5, texture > -0.5], [300.0, 200.0], 100.0)
    field = strength * (0.25 * axes[0] + 0.2 * axes[0] * axes[1] - 0.15 * axes[-1] ** 2)
    image = np.where(mask, (tissue + rng.normal(0, 5, shape)).clip(1), 0) * np.exp(field)
    return image.astype(np.float32), mask, field


def of_itk(image: np.ndarray, mask: np.ndarray, iterations: tuple[int, ...], tolerance: float) -> np.ndarray:
    filter_ = sitk.N4BiasFieldCorrectionImageFilter()
    filter_.SetMaximumNumberOfIterations(list(iterations))
    filter_.SetConvergenceThreshold(tolerance)
    volume = sitk.GetImageFromArray(np.ascontiguousarray(image.T))
    filter_.Execute(volume, sitk.GetImageFromArray(np.ascontiguousarray(mask.T).astype(np.uint8)))
    return np.asarray(sitk.GetArrayFromImage(filter_.GetLogBiasFieldAsImage(volume)).T)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


# --- pieces ----------------------------------------------------------------------------------------------------------


@given(st.integers(4, 9), st.sampled_from([1, 2, 3]), st.integers(0, 2**16))
def test_a_finer_lattice_is_the_same_field(n: int, ndim: int, seed: int) -> None:
    lattice = torch.from_numpy(np.random.default_rng(seed).normal(size=(n,) * ndim))
    u = torch.linspace(0, 1, 23, dtype=torch.float64)
    finer = _refined(lattice)
    assert finer.shape == (2 * n - 3,) * ndim
    whole, fine = (along_axes(values, [spline_basis(u, len(values))] * ndim) for values in (lattice, finer))
    assert torch.allclose(fine, whole)


def test_otsu_parts_two_heaps() -> None:
    values = torch.cat([torch.linspace(0, 1, 50), torch.linspace(9, 10, 50)])
    assert 1 <= otsu_threshold(values) <= 9


# --- SimpleITK as the oracle -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SHAPE, (90, 101)], ids=["3D", "2D"])
def test_fixed_iterations_at_one_level_equal_itk(shape: tuple[int, ...]) -> None:
    image, mask, _ = head(shape)
    ours = n4(image, mask, shrink=1, iterations=(12,), tolerance=0)
    assert rms((ours.log_field - of_itk(image, mask, (12,), 0))[mask]) < 1e-5
    assert [len(level.changes) for level in ours.record.levels] == [12]


def test_levels_and_convergence_equal_itk() -> None:
    image, mask, _ = head()
    ours = n4(image, mask, shrink=1)
    assert rms((ours.log_field - of_itk(image, mask, (50,) * 4, 1e-3))[mask]) < 2e-5
    assert [level.control_points for level in ours.record.levels] == [4, 5, 7, 11]
    assert all(level.converged and level.changes[-1] < 1e-3 for level in ours.record.levels)


@given(st.integers(1, 60), st.integers(1, 5))
def test_the_voxels_looked_at_are_itks(size: int, step: int) -> None:
    """Of 16 voxels every fourth: 2, 6, 10, 14."""
    assert _thinned(16, 4) == (2, 4)
    row = sitk.GetImageFromArray(np.arange(size * 2, dtype=np.float32).reshape(2, size))
    theirs = sitk.GetArrayFromImage(sitk.Shrink(row, [step, 1]))[0]
    if size >= step:
        start, count = _thinned(size, step)
        assert theirs.tolist() == list(range(start, start + step * count, step))


@pytest.mark.parametrize("shape", [(64, 72, 68), (65, 70, 67)], ids=["even", "odd"])
@pytest.mark.parametrize("shrink", [2, 3, 4])
def test_a_shrunken_fit_equals_itks(shape: tuple[int, ...], shrink: int) -> None:
    """At the voxels looked at. Between them ITK draws the field out to the image's ends: ours stays where it was."""
    image, mask, field = head(shape)
    found = find_bias_field(torch.from_numpy(image), torch.from_numpy(mask), N4Settings(shrink, (12,), 0))
    assert found.record.shrink == (shrink,) * 3
    volumes = [sitk.GetImageFromArray(array.T.copy()) for array in (image, mask.astype(np.uint8))]
    small, inside = (sitk.Shrink(volume, (shrink,) * 3) for volume in volumes)
    filter_ = sitk.N4BiasFieldCorrectionImageFilter()
    filter_.SetMaximumNumberOfIterations([12])
    filter_.SetConvergenceThreshold(0)
    filter_.Execute(small, inside)
    log_field = found.log_field().numpy()
    places = [_thinned(size, shrink) for size in shape]
    looked_at = log_field[tuple(slice(start, start + shrink * count, shrink) for start, count in places)]
    there = sitk.GetArrayFromImage(inside).T > 0
    # With so few voxels, one that float32 rounds into another bin of the histogram counts.
    assert rms((looked_at - sitk.GetArrayFromImage(filter_.GetLogBiasFieldAsImage(small)).T)[there]) < 2e-5

    theirs = sitk.GetArrayFromImage(filter_.GetLogBiasFieldAsImage(volumes[0])).T
    ends = [spline_basis(torch.linspace(0, 1, size), 4) for size in shape]
    assert rms((along_axes(found.lattice.float(), ends).numpy() - theirs)[mask]) < 2e-5
    ours_off, theirs_off = (float((log - field)[mask].std()) for log in (log_field, theirs))
    assert ours_off < theirs_off


# --- what it is for --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shrink", [1, 2, 4])
def test_a_known_field_is_found(shrink: int) -> None:
    image, mask, field = head((64, 72, 60))
    found = n4(image, mask, shrink=shrink)
    error = (found.log_field - field)[mask]
    assert rms(error - error.mean()) < 0.012
    assert rms(field[mask] - field[mask].mean()) > 0.1
    assert np.allclose(found.corrected, image / np.exp(found.log_field), rtol=1e-4)


def test_without_a_field_there_is_next_to_none() -> None:
    image, mask, _ = head((64, 72, 60), strength=0)
    found = n4(image, mask).log_field[mask]
    assert found.std() < 0.01


def test_the_unit_of_the_intensities_does_not_matter() -> None:
    image, mask, _ = head()
    one, other = n4(image, mask, shrink=2).log_field, n4(image * 1000, mask, shrink=2).log_field
    assert np.allclose(one, other, atol=1e-4)


def test_a_mask_is_made_if_none_is_given() -> None:
    image, mask, field = head((64, 72, 60))
    found = n4(image)
    assert found.record.otsu is not None
    error = (found.log_field - field)[mask]
    assert rms(error - error.mean()) < 0.02


def test_what_is_not_above_zero_is_not_looked_at() -> None:
    """Spline interpolation leaves negative voxels in a head; N4 takes logarithms."""
    image, mask, _ = head()
    hurt = image.copy()
    hurt[mask & (np.random.default_rng(1).random(SHAPE) < 0.01)] = -5
    found = n4(hurt, mask, shrink=1)
    assert np.isfinite(found.corrected).all()
    assert rms((found.log_field - n4(image, mask, shrink=1).log_field)[mask]) < 0.01


def test_thick_slices_are_not_thinned_out() -> None:
    image, mask, _ = head((64, 64, 24))
    assert n4(image, mask, shrink=4).record.shrink == (4, 4, 1)


def test_an_array_that_was_turned() -> None:
    """Nibabel's canonical order leaves negative strides; a file may be big-endian."""
    image, mask, _ = head()
    turned = n4(image[::-1].astype(">f4"), mask[::-1])
    assert np.allclose(turned.log_field, n4(np.ascontiguousarray(image[::-1]), mask[::-1]).log_field)


@pytest.mark.parametrize("kind", [np.float64, np.int16, np.uint16])
def test_every_kind_of_image(kind: Any) -> None:
    image, mask, _ = head()
    found = n4(image.astype(kind), mask)
    assert (found.corrected.dtype, found.log_field.dtype) == (np.float32, np.float32)


def test_tensors_give_tensors_and_nothing_is_changed() -> None:
    image, mask, _ = head()
    before = image.copy()
    tensors = n4(torch.from_numpy(image), torch.from_numpy(mask))
    assert isinstance(tensors.corrected, torch.Tensor)
    assert np.array_equal(tensors.log_field.numpy(), n4(image, mask).log_field), "and the same twice"
    assert np.array_equal(image, before)


# --- bad input -------------------------------------------------------------------------------------------------------


def spoiled(name: str) -> tuple[np.ndarray, np.ndarray | None]:
    image, mask, _ = head()
    nan = image.copy()
    nan[0, 0, 0] = np.nan
    one = np.zeros_like(mask)
    one[18, 22, 15] = True
    return {
        "nan": (nan, mask),
        "negative": (-image, mask),
        "constant": (np.full(SHAPE, 7.0), mask),
        "constant inside": (np.where(mask, 5.0, 0.0), mask),
        "empty mask": (image, np.zeros_like(mask)),
        "other shape": (image, mask[1:]),
        "one voxel": (image, one),
        "four axes": (image[None, None], None),
        "no voxel": (image[:0], None),
        "complex": (image + 1j, mask),
        "words": (np.full(SHAPE, "a"), mask),
    }[name]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nan", "NaN or infinite"),
        ("negative", "no voxel above 0"),
        ("constant", "7 everywhere"),
        ("constant inside", "constant inside the mask"),
        ("empty mask", "the mask is empty"),
        ("other shape", r"the mask has the shape \(35, 44, 30\)"),
        ("one voxel", "1 voxels above 0 are in the mask|0 voxels above 0 are in the mask"),
        ("four axes", "one 2D or 3D image at a time"),
        ("no voxel", r"\(0, 44, 30\)"),
        ("complex", "made of complex"),
        ("words", "made of <U1"),
    ],
)
def test_bad_input_is_named_with_the_way_out(name: str, says: str) -> None:
    image, mask = spoiled(name)
    with pytest.raises(InputError, match=says) as error:
        n4(image, mask)
    assert error.value.way_out


def test_a_complex_tensor_is_refused() -> None:
    with pytest.raises(InputError, match=r"made of torch\.complex64"):
        n4(torch.ones(9, 9, 9, dtype=torch.complex64))


@pytest.mark.parametrize(
    "bad",
    [
        {"shrink": 0},
        {"shrink": 1.5},
        {"shrink": "4"},
        {"shrink": True},
        {"iterations": ()},
        {"iterations": 50},
        {"iterations": "50"},
        {"iterations": [50, 2.5]},
        {"control_points": 3},
        {"control_points": 4.5},
        {"bins": 20.5},
        {"fwhm": 0},
        {"fwhm": float("inf")},
        {"tolerance": -1},
        {"tolerance": None},
        {"wiener_noise": "low"},
        {"iteration": [50]},
        {"levels": 3},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(bad: dict[str, Any]) -> None:
    (name,) = bad
    for use in (N4Settings.of, lambda **wrong: N4BiasFieldCorrectiond("image", **wrong)):
        with pytest.raises(SettingError, match=name) as error:
            use(**bad)
        assert error.value.way_out


def test_iterations_may_be_a_list() -> None:
    assert N4Settings(iterations=[5, 5]) == N4Settings(iterations=(5, 5))  # type: ignore[arg-type]


# --- the transform ---------------------------------------------------------------------------------------------------


def case() -> dict[str, Any]:
    image, mask, _ = head()
    stacked = MetaTensor(torch.from_numpy(np.stack([image, image**1.1])), meta={"filename_or_obj": "anna.nii.gz"})
    return {"image": stacked, "mask": torch.from_numpy(mask)[None]}


def test_each_channel_has_its_own_field_and_the_metadata_says_so() -> None:
    data = case()
    before = data["image"].clone()
    result = N4BiasFieldCorrectiond("image", mask_key="mask", shrink=2)(data)["image"]
    for channel in range(2):
        expected = n4(before[channel].numpy(), data["mask"][0].numpy(), shrink=2).corrected
        assert np.allclose(result[channel].numpy(), expected)
    assert result.meta[META_KEY] == "n4, shrink 2"
    assert result.meta["filename_or_obj"] == "anna.nii.gz"
    assert torch.equal(data["image"], before)
    assert META_KEY not in data["image"].meta


def test_the_method_is_chosen_by_a_config() -> None:
    config = {"_target_": "neurobundle.prepare.N4BiasFieldCorrectiond", "keys": "image", "mask_key": "mask"}
    results = {}
    for method in ("n4", "simpleitk", "none"):
        parser = ConfigParser({"step": {**config, "method": method, "shrink": 1, "iterations": [10], "tolerance": 0}})
        parser.parse()
        results[method] = parser.get_parsed_content("step")(case())["image"]
    assert torch.equal(results["none"], case()["image"])
    assert torch.allclose(results["n4"].as_tensor(), results["simpleitk"].as_tensor(), rtol=1e-3)
    with pytest.raises(SettingError, match="'n3'"):
        N4BiasFieldCorrectiond("image", method="n3")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["n4", "simpleitk"])
@pytest.mark.parametrize("name", ["nan", "negative", "constant", "constant inside", "empty mask", "other shape"])
def test_both_methods_refuse_alike(name: str, method: Any) -> None:
    image, mask = spoiled(name)
    assert mask is not None
    data = {"image": torch.from_numpy(image)[None], "mask": torch.from_numpy(mask)[None]}
    with pytest.raises(InputError) as direct:
        n4(image, mask)
    with pytest.raises(InputError) as error:
        N4BiasFieldCorrectiond("image", mask_key="mask", method=method)(data)
    assert error.value.cause == direct.value.cause


@pytest.mark.parametrize("slices", [24, 3, 1])
def test_simpleitk_gets_the_voxels_that_ours_gets(slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thick slices are not thinned out; Otsu's threshold is that of the voxels looked at."""
    image = head((64, 72, 25))[0][..., 12 - slices // 2 :][..., :slices]
    given: list[np.ndarray] = []
    get = sitk.GetImageFromArray

    def seen(array: np.ndarray) -> Any:
        given.append(array)
        return get(array)

    monkeypatch.setattr(sitk, "GetImageFromArray", seen)
    tensor = torch.from_numpy(np.ascontiguousarray(image))
    corrected = N4BiasFieldCorrectiond("image", method="simpleitk", iterations=[5])({"image": tensor[None]})["image"]
    assert corrected.shape == (1, 64, 72, slices)
    assert bool(torch.isfinite(corrected).all())
    ours = look_at(tensor, None, N4Settings())
    assert tuple(ours.volume.shape) == (16, 18, slices)
    assert np.array_equal(given[0].T, ours.volume.squeeze())
    assert np.array_equal(given[1].T > 0, ours.inside.squeeze())


def test_what_simpleitk_cannot_do_is_named() -> None:
    line = torch.linspace(5, 50, 300)[None, :, None, None]
    assert N4BiasFieldCorrectiond("image", shrink=1)({"image": line})["image"].shape == line.shape
    with pytest.raises(InputError, match="SimpleITK finds no field"):
        N4BiasFieldCorrectiond("image", shrink=1, method="simpleitk")({"image": line})


def test_an_absent_channel_is_left_alone_or_named() -> None:
    data = case()
    data["image"][1] = 0
    assert not N4BiasFieldCorrectiond("image", allow_empty=True)(data)["image"][1].any()
    with pytest.raises(InputError, match=r"anna\.nii\.gz: the image has no voxel above 0"):
        N4BiasFieldCorrectiond("image")(data)


def test_a_mask_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingError, match="no mask 'brain'"):
        N4BiasFieldCorrectiond("image", mask_key="brain")(case())


def test_what_was_found_is_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = N4BiasFieldCorrectiond("image", mask_key="mask", cache_dir=tmp_path)
    first = step(case())["image"]
    assert len(list(tmp_path.iterdir())) == 2

    def never(*_: Any) -> None:
        raise AssertionError("it was found before")

    monkeypatch.setattr("neurobundle.prepare.bias_correction.find_bias_field", never)
    assert torch.equal(step(case())["image"], first)
    other = case()
    other["image"][0, 18, 22, 15] += 1
    with pytest.raises(AssertionError, match="found before"):
        step(other)
    with pytest.raises(AssertionError, match="found before"):
        N4BiasFieldCorrectiond("image", mask_key="mask", cache_dir=tmp_path, shrink=2)(case())


@pytest.mark.parametrize("how", ["truncated", "empty", "garbage", "flipped", "stale"])
def test_a_damaged_cache_is_made_again_with_one_line_62(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    step = N4BiasFieldCorrectiond("image", mask_key="mask", cache_dir=tmp_path)
    data = case()
    data["image"] = data["image"][:1]
    first = step(data)["image"]
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    if how == "stale":
        field = find_bias_field(torch.rand(9, 9, 9) + 1, torch.ones(9, 9, 9))
        from neurobundle.prepare.bias_correction import _write

        _write(path, field)
    else:
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"truncated": whole[:middle], "empty": b"", "garbage": b"?" * 99, "flipped": flipped}[how])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(step(data)["image"], first)
    assert len(caplog.records) == 1
    assert path.name in caplog.records[0].getMessage()
    assert "WARNING" not in caplog.records[0].getMessage()
    assert path.read_bytes() == whole
