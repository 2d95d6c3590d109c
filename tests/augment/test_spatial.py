import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Affine

from neurobundle.augment.crops import FindForegroundIndicesd
from neurobundle.augment.spatial import Pose, RandSpatiald, sample, sampling_grid
from neurobundle.errors import InputError, SettingError


def case(*shape: int, channels: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(1, *shape, dtype=torch.int16)
    label[(0, *(slice(n // 4, n // 2) for n in shape))] = 7
    label[(0, *(slice(n // 2, 3 * n // 4) for n in shape))] = 300
    image = torch.rand(channels, *shape, generator=generator) + label / 100
    return {"image": MetaTensor(image, affine=torch.eye(4)), "label": label}


KEYS = ("image", "label")


def turned(matrix: list[list[float]], start: tuple[int, ...], flipped: tuple[int, ...] = ()) -> Pose:
    return Pose(start, flipped, np.array(matrix, float))


def test_no_change_is_a_crop() -> None:
    image = torch.arange(30.0).reshape(1, 5, 6)
    grid = sampling_grid((5, 6), (3, 4), turned([[1, 0], [0, 1]], (1, 2)))
    for nearest in (False, True):
        torch.testing.assert_close(sample(image, grid, nearest), image[:, 1:4, 2:6])


def test_a_quarter_turn_and_a_mirror() -> None:
    """About the middle of 3 x 3: the patch's first axis runs along the image's second."""
    image = torch.arange(9.0).reshape(1, 3, 3)
    grid = sampling_grid((3, 3), (3, 3), turned([[0, 1], [1, 0]], (0, 0)))
    torch.testing.assert_close(sample(image, grid, nearest=False), image.mT)
    grid = sampling_grid((3, 3), (3, 3), turned([[1, 0], [0, 1]], (0, 0), (1,)))
    torch.testing.assert_close(sample(image, grid, nearest=False), image.flip(2))


def test_half_a_step_is_the_mean_of_neighbours() -> None:
    """Scaled by half about the middle of 0 2 4: voxels come from places 0.5, 1 and 1.5."""
    image = torch.tensor([[[0.0, 2.0, 4.0]]])
    grid = sampling_grid((1, 3), (1, 3), turned([[1, 0], [0, 0.5]], (0, 0)))
    torch.testing.assert_close(sample(image, grid, nearest=False), torch.tensor([[[1.0, 2.0, 3.0]]]))


def test_an_elastic_field_of_one_number_shifts() -> None:
    image = torch.arange(20.0).reshape(1, 4, 5)
    elastic = np.stack([np.zeros((5, 4)), np.ones((5, 4))])
    grid = sampling_grid((4, 5), (4, 3), Pose((0, 0), (), np.eye(2), elastic))
    torch.testing.assert_close(sample(image, grid, nearest=False), image[:, :, 1:4])


def test_an_affine_is_monais() -> None:
    """The whole volume as the patch: MONAI's Affine with the same matrix, about the same middle."""
    angle = 0.3
    matrix = [[math.cos(angle), -math.sin(angle), 0.1], [math.sin(angle), math.cos(angle), 0], [0, 0.05, 0.9]]
    image = case(12, 14, 16)["image"].as_tensor()
    grid = sampling_grid((12, 14, 16), (12, 14, 16), turned(matrix, (0, 0, 0)))
    whole = np.eye(4)
    whole[:3, :3] = matrix
    theirs = Affine(affine=whole, padding_mode="border", image_only=True)(image)
    torch.testing.assert_close(sample(image, grid, nearest=False), theirs.as_tensor(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(20, 24), (14, 15, 16)], ids=str)
@pytest.mark.parametrize("padding", ["border", "floor"])
@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_labels_keep_their_values_and_inputs_theirs(shape: tuple[int, ...], padding: str, prob: float) -> None:
    size = tuple(n - 5 if axis else n + 3 for axis, n in enumerate(shape))
    transform = RandSpatiald(KEYS, size, prob, padding=padding, elastic_prob=0.7, flip_axes=(0,)).set_random_state(0)
    data = case(*shape)
    before = {key: value.clone() for key, value in data.items()}
    for _ in range(6):
        found = transform(data)
        assert found["image"].shape == (2, *size)
        assert found["label"].shape == (1, *size)
        assert found["label"].dtype == torch.int16
        assert set(found["label"].unique().tolist()) <= {0, 7, 300}
        assert bool(torch.isfinite(found["image"]).all())
        assert isinstance(found["image"], MetaTensor)
    assert all(torch.equal(torch.as_tensor(data[k]), torch.as_tensor(before[k])) for k in data)


def test_one_seed_one_result() -> None:
    transform = RandSpatiald(KEYS, (8, 8, 8), 1.0, elastic_prob=1.0)
    first, again, other = (transform.set_random_state(n)(case(12, 12, 12)) for n in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in KEYS)
    assert not torch.equal(first["image"], other["image"])


def test_image_and_label_move_together() -> None:
    """An image that equals its label map, sampled from the nearest, still equals it."""
    label = case(16, 18, 20)["label"]
    transform = RandSpatiald(("a", "b"), (12, 12, 12), 1.0, "nearest", elastic_prob=1.0).set_random_state(0)
    for _ in range(3):
        found = transform({"a": label.float(), "b": label})
        assert torch.equal(found["a"], found["b"].float())
        assert len(found["b"].unique()) > 1


@given(seed=st.integers(0, 1000), prob=st.sampled_from([0.0, 1.0]))
def test_the_affine_says_where_a_voxel_came_from(seed: int, prob: float) -> None:
    """An image of world coordinates, moved: at each voxel inside it shows what the new affine says."""
    affine = torch.tensor([[0, -2.0, 0, 5], [1, 0, 0, 6], [0, 0, 3.0, 7], [0, 0, 0, 1]])
    index = torch.stack(torch.meshgrid(*map(torch.arange, (20, 16, 12)), indexing="ij")).float()
    world = torch.einsum("xy,yijk->xijk", affine[:3, :3], index) + affine[:3, 3, None, None, None]
    transform = RandSpatiald("image", (6, 6, 6), prob, "bilinear", elastic_prob=0, flip_axes=(0, 2))
    patch = transform.set_random_state(seed)({"image": MetaTensor(world, affine=affine)})["image"]
    here = torch.stack(torch.meshgrid(*map(torch.arange, (6, 6, 6)), indexing="ij")).double()
    expected = torch.einsum("xy,yijk->xijk", patch.affine[:3, :3], here) + patch.affine[:3, 3, None, None, None]
    origin = torch.linalg.inv(affine.double()) @ patch.affine
    source = torch.einsum("xy,yijk->xijk", origin[:3, :3], here) + origin[:3, 3, None, None, None]
    limit = torch.tensor([19.0, 15, 11], dtype=torch.float64)[:, None, None, None]
    inside = ((source >= 0) & (source <= limit)).all(dim=0)
    assert bool(inside.any())
    torch.testing.assert_close(patch.as_tensor().double()[:, inside], expected[:, inside], atol=2e-3, rtol=0)


def test_rotation_is_in_millimetres() -> None:
    """Voxels of 1 x 1 x 4 mm: the map between displacements in mm is a rotation."""
    image = MetaTensor(torch.rand(1, 9, 9, 9), affine=torch.diag(torch.tensor([1.0, 1, 4, 1])))
    transform = RandSpatiald("image", (5, 5, 5), 1.0, "bilinear", scaling=0, shear=0, elastic_prob=0)
    transform.set_random_state(0)({"image": image})
    step = np.diag([1.0, 1, 4])
    assert transform.pose.matrix is not None
    in_mm = step @ transform.pose.matrix @ np.linalg.inv(step)
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
    assert not np.allclose(in_mm, np.eye(3), atol=0.05)


def test_the_spread_of_the_elastic_field_is_the_one_that_was_asked_for() -> None:
    transform = RandSpatiald("image", (64, 64), 1.0, "bilinear", elastic_prob=1.0, elastic=(2, 2), elastic_step=8)
    transform.set_random_state(0)
    rooms = []
    for _ in range(20):
        transform.randomize({"image": torch.zeros(1, 64, 64)})
        moved = sampling_grid((64, 64), (64, 64), transform.pose)
        still = sampling_grid((64, 64), (64, 64), transform.pose._replace(elastic=None))
        rooms.append(float((moved - still).std()) * 63 / 2)
    assert np.mean(rooms) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_beyond_the_image_is_its_floor(prob: float) -> None:
    image, label = torch.full((1, 4, 4), 5.0), torch.full((1, 4, 4), 3)
    image[0, 0, 0] = -1
    transform = RandSpatiald(KEYS, (12, 12), prob, padding="floor").set_random_state(0)
    found = transform({"image": image, "label": label})
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert float(found["image"][0][corner]) == -1
        assert int(found["label"][0][corner]) == 0
    assert int(found["label"][0, 6, 6]) == 3


def test_crops_about_the_foreground() -> None:
    data = FindForegroundIndicesd("label")(case(16, 16, 16))
    transform = RandSpatiald(KEYS, (5, 5, 5), 0.5, label_key="label", neg=0).set_random_state(0)
    for _ in range(10):
        found = transform(data)
        assert set(found) == set(KEYS)
        assert int(found["label"][0, 2, 2, 2]) > 0


def test_what_means_nothing_is_refused() -> None:
    for given_, cause in (
        ({"mode": "cubic"}, "mode is 'cubic'"),
        ({"mode": ("nearest",) * 3}, "for 2 keys"),
        ({"padding": "zeros"}, "padding is 'zeros'"),
        ({"flip_axes": (3,)}, "flip_axes is"),
        ({"prob": 2}, "prob is 2"),
        ({"scaling": 1.5}, "scaling is"),
        ({"elastic": (2, 1)}, "elastic is"),
        ({"patch_size": (4, 4, 4, 4)}, "patch_size is"),
    ):
        with pytest.raises(SettingError, match=cause):
            RandSpatiald(KEYS, **{"patch_size": (4, 4, 4), **given_})
    with pytest.raises(InputError, match="Bring both to one grid"):
        RandSpatiald(KEYS, (4, 4))({"image": torch.zeros(1, 5, 5), "label": torch.zeros(1, 5, 6)})
    with pytest.raises(InputError, match="as many axes"):
        RandSpatiald(KEYS, (4, 4))(case(5, 5, 5))


def test_image_and_label_that_lie_elsewhere_are_refused() -> None:
    """One shape, but the label map was stored from left to right; of arrays without an affine nothing is known."""
    data = case(8, 9, 10)
    transform = RandSpatiald(KEYS, (4, 4, 4), 1.0)
    mirrored = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    mirrored[0, 3] = 7
    for affine in (mirrored, torch.diag(torch.tensor([1.0, 1, 1.2, 1])), torch.full((4, 4), torch.nan)):
        with pytest.raises(InputError, match=r"image and label have one shape, .* but their affines differ"):
            transform({**data, "label": MetaTensor(data["label"], affine=affine)})
    moved = torch.eye(4)
    moved[0, 3] = 0.01
    for label in (data["label"], MetaTensor(data["label"], affine=moved)):
        assert transform({**data, "label": label})["label"].shape == (1, 4, 4, 4)
    with pytest.raises(InputError, match="other and label have one shape"):
        RandSpatiald(("image", "other", "label"), (4, 4, 4), 1.0, "nearest")(
            {
                "image": data["image"].as_tensor(),
                "other": data["image"],
                "label": MetaTensor(data["label"], affine=mirrored),
            }
        )


@pytest.mark.parametrize("affine", [torch.eye(3), torch.eye(4)], ids=["3 x 3", "4 x 4"])
def test_affines_of_slices(affine: torch.Tensor) -> None:
    plain = {"image": torch.rand(2, 8, 9), "label": torch.zeros(1, 8, 9)}
    data = {key: MetaTensor(value, affine=affine) for key, value in plain.items()}
    transform = RandSpatiald(KEYS, (4, 4), 1.0)
    assert transform(data)["label"].shape == (1, 4, 4)
    other = affine.clone()
    other[1, 1] = -1
    with pytest.raises(InputError, match="their affines differ"):
        transform({**data, "label": MetaTensor(plain["label"], affine=other)})


def test_a_label_map_to_crop_about_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingError, match="no label map 'lesion'"):
        RandSpatiald(KEYS, (4, 4, 4), label_key="lesion")(case(8, 8, 8))
    data = FindForegroundIndicesd("label")(case(8, 8, 8))
    del data["label"]
    found = RandSpatiald("image", (4, 4, 4), mode="bilinear", label_key="label")(data)
    assert set(found) == {"image"}
    small = {**case(8, 8, 8), "lesion": torch.ones(1, 8, 8, 7)}
    with pytest.raises(InputError, match="lesion"):
        RandSpatiald(KEYS, (4, 4, 4), label_key="lesion")(small)


@pytest.mark.parametrize("size", [(4, 4, 4), (8, 8, 8), (12, 8, 4)], ids=str)
def test_writing_into_a_plain_crop_leaves_the_image(size: tuple[int, ...]) -> None:
    data: dict[str, Any] = {**case(8, 8, 8), "array": np.ones((1, 8, 8, 8), np.float32)}
    found = RandSpatiald((*KEYS, "array"), size, 0.0, "nearest").set_random_state(0)(data)
    for patch in found.values():
        patch.fill_(-1)
    assert all(float(torch.as_tensor(image).min()) >= 0 for image in data.values())


def test_plain_crops_are_mirrored_as_often() -> None:
    """As the docstring says: prob is not about flips."""
    image = torch.arange(6.0).reshape(1, 1, 6)
    transform = RandSpatiald("image", (1, 6), 0.0, "bilinear", flip_axes=(1,)).set_random_state(0)
    found = [transform({"image": image})["image"] for _ in range(200)]
    mirrored = sum(torch.equal(patch, image.flip(2)) for patch in found)
    assert mirrored + sum(torch.equal(patch, image) for patch in found) == 200
    assert 70 < mirrored < 130
