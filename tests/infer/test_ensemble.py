"""Members that become one, against numpy on their stack."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from scipy.special import expit, logit
from scipy.stats import entropy
from torch import nn

from neurobundle.bundle import fingerprint
from neurobundle.errors import SettingError, WeightsError
from neurobundle.infer import AutocastInferer, EnsembleInferer
from neurobundle.infer.ensemble import MEMBER_VOXELS, RunningMembers, member_weights
from neurobundle.networks import save_weights

IMAGE = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(1, 2, 3, 4, 5) / 50


def network(seed: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(2, classes, 3, padding=1), nn.Dropout3d(0.5)).eval()


def saved(folder: Path, *seeds: int) -> list[Path]:
    paths = [folder / f"fold{seed}.pt" for seed in seeds]
    for path, seed in zip(paths, seeds, strict=True):
        save_weights(network(seed), path, half=False, origin="trained-here")
    return paths


def stack(seeds: list[int], image: torch.Tensor = IMAGE, axes: list[tuple[int, ...]] | None = None) -> np.ndarray:
    """The logits of all members, ``(member, batch, class, i, j, k)``."""
    flips = [tuple(axis + 2 for axis in way) for way in axes or [()]]
    with torch.no_grad():
        return np.stack([network(seed)(image.flip(flip)).flip(flip).numpy() for seed in seeds for flip in flips])


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(float) - logits.max(axis=-4, keepdims=True))
    return e / e.sum(axis=-4, keepdims=True)


def test_one_member_passes_through_bit_by_bit() -> None:
    found = EnsembleInferer()(IMAGE, network(0))
    assert torch.equal(found, network(0)(IMAGE))
    with_spread = EnsembleInferer(uncertainty=True)(IMAGE, network(0))
    assert with_spread.shape[1] == 5
    assert torch.equal(with_spread[:, :3], found.detach())
    assert not with_spread[:, 3:].any(), "one member agrees with itself"


def test_one_member_can_still_be_trained() -> None:
    assert EnsembleInferer()(IMAGE, network(0)).requires_grad


def test_two_constant_members_by_hand() -> None:
    """Probabilities .9 and .5 of the first class: .7 in the mean, a variance of .04."""
    running = RunningMembers(spread=True)
    for p in (0.9, 0.5):
        running.add(torch.tensor([p, 1 - p]).log()[None, :, None, None, None])
    assert running.logits().flatten().exp().tolist() == pytest.approx([0.7, 0.3])
    assert running.variance().item() == pytest.approx(0.04)
    expected = [entropy([p, 1 - p]) / np.log(2) for p in (0.7, 0.9, 0.5)]
    assert running.mutual_information().item() == pytest.approx(expected[0] - (expected[1] + expected[2]) / 2, abs=1e-6)


def test_softmax_equals_numpy_on_the_stack(tmp_path: Path) -> None:
    inferer = EnsembleInferer(weights=saved(tmp_path, 1, 2), axes=(0, 2), uncertainty=True)
    found = inferer(IMAGE, network(0)).numpy()
    members = softmax(stack([0, 1, 2], axes=[(), (0,), (2,), (0, 2)]))
    assert len(members) == 12
    mean = members.mean(axis=0)
    assert np.allclose(found[:, :3], np.log(mean), atol=1e-5)
    information = (entropy(mean, axis=1) - entropy(members, axis=2).mean(axis=0)) / np.log(3)
    assert np.allclose(found[:, 3], information, atol=1e-5)
    assert np.allclose(found[:, 4], members.var(axis=0).mean(axis=1), atol=1e-6)
    assert information.max() > 0.01, "the members disagree"


def test_sigmoid_equals_numpy_on_the_stack(tmp_path: Path) -> None:
    inferer = EnsembleInferer(weights=saved(tmp_path, 1), axes=[1], activation="sigmoid", uncertainty=True)
    found = inferer(IMAGE, network(0)).numpy()
    members = expit(stack([0, 1], axes=[(), (1,)]).astype(float))
    mean = members.mean(axis=0)
    assert np.allclose(found[:, :3], logit(mean), atol=1e-5)

    def binary(p: np.ndarray) -> np.ndarray:
        return entropy(np.stack([p, 1 - p])) / np.log(2)

    information = (binary(mean) - binary(members).mean(axis=0)).max(axis=1)
    assert np.allclose(found[:, 3], information, atol=1e-5)
    assert np.allclose(found[:, 4], members.var(axis=0).mean(axis=1), atol=1e-6)


def test_without_uncertainty_there_are_the_logits_alone(tmp_path: Path) -> None:
    files = saved(tmp_path, 1)
    with_spread = EnsembleInferer(weights=files, uncertainty=True)(IMAGE, network(0))
    assert torch.equal(EnsembleInferer(weights=files)(IMAGE, network(0)), with_spread[:, :3])


def test_members_that_are_certain_of_another_class_are_finite() -> None:
    for activation in ("softmax", "sigmoid"):
        said = iter([torch.tensor([200.0, 0.0]), torch.tensor([200.0, 200.0])])

        def answer(image: torch.Tensor, said=said) -> torch.Tensor:
            return next(said)[None, :, None, None, None].expand(1, 2, *image.shape[2:])

        found = EnsembleInferer(axes=[0], activation=activation)(torch.zeros(1, 1, 2, 2, 2), answer)
        assert found.isfinite().all()
        assert (found[:, 0] > found[:, 1]).all()


def test_left_and_right_are_exchanged_in_the_mirror() -> None:
    """A network says class 1 in the left half, whatever it sees: in the mirror that is the right half."""

    def sides(image: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(1, 3, *image.shape[2:])
        found[:, 1, :2], found[:, 2, 2:] = 9, 9
        return found

    image = torch.zeros(1, 1, 4, 2, 2)
    plain = sides(image).argmax(1)
    assert torch.equal(EnsembleInferer(axes=[0], swap=[[1, 2]])(image, sides).argmax(1), plain)
    disputed = EnsembleInferer(axes=[0])(image, sides).softmax(1)
    assert torch.allclose(disputed[:, 1], disputed[:, 2]), "without the exchange either class is as likely"
    # Along another axis a side stays a side.
    assert torch.equal(EnsembleInferer(axes=[1], swap=[[1, 2]])(image, sides).argmax(1), plain)


def test_dropout_alone_drops_and_the_same_each_time() -> None:
    net = nn.Sequential(nn.Conv3d(2, 8, 1), nn.BatchNorm3d(8), nn.Dropout3d(0.5), nn.Conv3d(8, 3, 1)).eval()
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    found = EnsembleInferer(samples=4, uncertainty=True)(IMAGE, net)
    assert found[:, 4].max() > 0, "the passes differ"
    assert torch.equal(torch.get_rng_state(), state), "nobody else's chance is touched"
    torch.rand(1)
    assert torch.equal(found, EnsembleInferer(samples=4, uncertainty=True)(IMAGE, net)), "whatever came before"
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), "no statistic has moved"


def test_one_pass_with_dropout_ends_with_its_layers_at_rest() -> None:
    net = network(0)
    EnsembleInferer(samples=1)(IMAGE, net)
    assert not net[1].training


def test_copies_share_nothing_with_the_network(tmp_path: Path) -> None:
    net = network(0)
    inferer = EnsembleInferer(weights=saved(tmp_path, 1), network=net)
    first = inferer(IMAGE, net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    second = inferer(IMAGE, net)
    expected = (softmax(stack([1]))[0] + 1 / 3) / 2
    assert not torch.equal(first, second)
    assert np.allclose(second.exp(), expected, atol=1e-5)


def test_a_member_is_read_once(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 1)
    inferer, net = EnsembleInferer(weights=[path]), network(0)
    first = inferer(IMAGE, net)
    path.unlink()
    assert torch.equal(inferer(IMAGE, net), first)


def test_metadata_stay_and_say_what_each_member_found(tmp_path: Path) -> None:
    image = MetaTensor(IMAGE, meta={"filename_or_obj": "a.nii"})
    inferer = EnsembleInferer(SlidingWindowInferer((3, 4, 5)), weights=saved(tmp_path, 1), uncertainty=True)
    found = inferer(image, network(0))
    assert found.meta["filename_or_obj"] == "a.nii"
    voxels = found.meta[MEMBER_VOXELS]
    assert voxels.shape == (1, 2, 3)
    assert voxels.sum(dim=2).tolist() == [[60, 60]]
    assert voxels[0, 1].tolist() == np.bincount(stack([1])[0, 0].argmax(0).ravel(), minlength=3).tolist()


def test_other_weights_are_another_fingerprint(tmp_path: Path) -> None:
    one, other = saved(tmp_path, 1, 2)
    inferers = [AutocastInferer(EnsembleInferer(weights=[path])) for path in (one, other)]
    assert fingerprint.of_parts(inferer=inferers[0]) != fingerprint.of_parts(inferer=inferers[1])
    assert [member.path for member in member_weights(inferers[1])] == [other]
    before = fingerprint.of_parts(inferer=inferers[0])
    inferers[0](IMAGE, network(0))
    assert fingerprint.of_parts(inferer=inferers[0]) == before, "being loaded is no setting"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"axes": [0, 0]}, "axes are"),
        ({"axes": [3]}, "axes are"),
        ({"axes": [-1]}, "axes are"),
        ({"samples": -1}, "samples is -1"),
        ({"activation": "tanh"}, "activation must be"),
        ({"swap": [[1, 2], [2, 3]]}, "swap is"),
        ({"swap": [[1, 2, 3]]}, "swap is"),
    ],
)
def test_settings_that_are_none(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        EnsembleInferer(**settings)


def test_samples_want_dropout() -> None:
    with pytest.raises(SettingError, match="the network has no dropout"):
        EnsembleInferer(samples=2)(IMAGE, nn.Conv3d(2, 3, 1))
    with pytest.raises(SettingError, match="the network has no dropout"):
        EnsembleInferer(samples=2, network=nn.Conv3d(2, 3, 1))


def test_an_exchange_of_classes_that_are_not_there() -> None:
    with pytest.raises(SettingError, match="There are 3 classes") as caught:
        EnsembleInferer(axes=[0], swap=[[2, 3]])(IMAGE, network(0))
    assert "swap" in str(caught.value)


def test_an_axis_that_a_slice_lacks() -> None:
    with pytest.raises(SettingError, match="has 2 axes"):
        EnsembleInferer(axes=[2])(torch.zeros(1, 2, 3, 4), nn.Conv2d(2, 3, 1))


def test_members_that_are_none(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 1)
    with pytest.raises(WeightsError, match="does not exist"):
        EnsembleInferer(weights=[tmp_path / "fold9.pt"])
    with pytest.raises(SettingError, match="named twice"):
        EnsembleInferer(weights=[path, path])
    with pytest.raises(WeightsError, match="for another network"):
        EnsembleInferer(weights=[path], network=network(0, classes=4))
    with pytest.raises(WeightsError, match="for another network"):
        EnsembleInferer(weights=[path])(IMAGE, network(0, classes=4))
    with pytest.raises(SettingError, match="torch network"):
        EnsembleInferer(weights=[path])(IMAGE, lambda x: x)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(WeightsError, match="damaged"):
        EnsembleInferer(weights=[path])


def test_a_network_of_several_outputs_is_refused() -> None:
    with pytest.raises(SettingError, match="several outputs"):
        EnsembleInferer(axes=[0])(IMAGE, lambda x: (x, x))
