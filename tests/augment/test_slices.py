"""One slice of a volume, by chance."""

from collections import Counter

import pytest
import torch
from monai.data import MetaTensor

from neurobundle.augment.slices import RandSliced
from neurobundle.errors import InputError, SettingError


def case(slices: int = 5, tumour: tuple[int, ...] = (3,)) -> dict[str, torch.Tensor]:
    """Every pixel of a slice says which it is; two channels, and a label in some slices."""
    image = torch.arange(slices, dtype=torch.float32).expand(2, 4, 3, slices)
    label = torch.zeros(1, 4, 3, slices)
    label[:, 1, 1, list(tumour)] = 1
    return {"image": MetaTensor(image.clone()), "label": MetaTensor(label)}


def drawn(transform: RandSliced, data: dict[str, torch.Tensor], times: int = 200) -> Counter[int]:
    transform.set_random_state(0)
    return Counter(int(transform(data)["image"][0, 0, 0]) for _ in range(times))


def test_image_and_label_are_of_one_slice() -> None:
    transform = RandSliced(["image", "label"], "label", labelled=1.0)
    found = transform(case())
    assert found["image"].shape == (2, 4, 3)
    assert found["label"].shape == (1, 4, 3)
    assert torch.equal(found["image"], torch.full((2, 4, 3), 3.0))
    assert found["label"].sum() == 1


def test_a_picture_has_but_one() -> None:
    assert drawn(RandSliced(["image", "label"], "label"), case(1, (0,)), 5) == {0: 5}


def test_labelled_slices_are_preferred() -> None:
    """Always, never more than the others, or in all cases alike where there is none."""
    keys = ["image", "label"]
    assert set(drawn(RandSliced(keys, "label", labelled=1.0), case(5, (1, 3)))) == {1, 3}
    assert set(drawn(RandSliced(keys, "label", labelled=0.0), case(5, (1, 3)))) == {0, 1, 2, 3, 4}
    assert set(drawn(RandSliced(keys, "label", labelled=1.0), case(5, ()))) == {0, 1, 2, 3, 4}
    assert set(drawn(RandSliced(keys), case(5, (1,)))) == {0, 1, 2, 3, 4}


def test_the_case_stays_as_it_was() -> None:
    """A dataset keeps it: what is done to the slice in place is not done to the volume."""
    data = case(1, (0,))
    found = RandSliced(["image", "label"])(data)
    found["image"].fill_(9)
    assert not (data["image"] == 9).any()
    assert not isinstance(found["image"], MetaTensor)


def test_the_same_seed_draws_the_same() -> None:
    transform = RandSliced(["image", "label"], "label")
    first = [transform.set_random_state(1), transform(case())][1]
    second = [transform.set_random_state(1), transform(case())][1]
    assert torch.equal(first["image"], second["image"])


def test_volumes_of_other_slices_are_refused() -> None:
    data = {**case(), "label": torch.zeros(1, 4, 3, 4)}
    with pytest.raises(InputError, match="one grid"):
        RandSliced(["image", "label"])(data)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(SettingError):
        RandSliced("image", labelled=1.5)
    with pytest.raises(SettingError, match="Add it to keys"):
        RandSliced("image", "label")(case())
