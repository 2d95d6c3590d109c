"""Weights are loaded completely, from a trusted file, or not at all."""

from __future__ import annotations

import logging
import os

import pytest
import torch

from neurobundle.errors import EnvironmentFault, WeightsError
from neurobundle.networks import manifest
from neurobundle.networks.manifest import MANIFEST_NAME, write_entry
from neurobundle.networks.weights import load_weights, read_state, save_weights


def network(out: int = 2) -> torch.nn.Sequential:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, out))


def zeroed() -> torch.nn.Sequential:
    """The same network with other values."""
    net = network()
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    return net


@pytest.fixture
def path(tmp_path):
    save_weights(network(), tmp_path / "model.pt", origin="released")
    return tmp_path / "model.pt"


def store(content, path):
    """Save anything, and list it, so that only its content can be refused."""
    torch.save(content, path)
    write_entry(path.parent, path.name, "released")


def test_round_trip(path):
    """float16 on the disk becomes float32 in the network, to float16's precision; counters stay whole."""
    stored = read_state(path)
    assert stored["0.weight"].dtype == torch.float16
    assert stored["1.num_batches_tracked"].dtype == torch.int64
    net = zeroed()
    load_weights(net, path)
    assert net[0].weight.dtype == torch.float32
    torch.testing.assert_close(net[0].weight, network()[0].weight.half().float(), rtol=0, atol=0)


def test_full_precision(tmp_path):
    """half=False keeps every bit."""
    save_weights(network(), tmp_path / "model.pt", half=False, origin="trained-here")
    net = zeroed()
    load_weights(net, tmp_path / "model.pt")
    assert torch.equal(net[0].weight, network()[0].weight)


def test_save_lists_origin_and_parent(path):
    """Saving over weights rewrites the manifest in the same step and leaves nothing else behind."""
    parent = manifest.verify(path).sha256
    entry = save_weights(zeroed(), path, origin="trained-here", parent=parent)
    assert manifest.verify(path) == entry
    assert (entry.origin, entry.parent) == ("trained-here", parent)
    assert sorted(p.name for p in path.parent.iterdir()) == [MANIFEST_NAME, "model.pt"]


def test_missing_file(tmp_path):
    for verify in (True, False):
        with pytest.raises(WeightsError, match="does not exist"):
            load_weights(network(), tmp_path / "model.pt", verify=verify)


class Payload:
    """Unpickling it would run a command."""

    def __reduce__(self):
        return (os.mkdir, ("payload-was-run",))


def test_fault_57_pickle_payload(path, tmp_path, monkeypatch):
    """Code in a checkpoint is not run; the sentence has the sha256."""
    monkeypatch.chdir(tmp_path)
    store({"weight": Payload()}, path)
    with pytest.raises(WeightsError, match=r"Python code.*sha256"):
        load_weights(network(), path)
    assert not (tmp_path / "payload-was-run").exists()


@pytest.mark.parametrize("size", [0, 10, 800], ids=["empty", "stub", "truncated"])
@pytest.mark.parametrize("verify", [True, False], ids=["verified", "unverified"])
def test_fault_58_truncated_or_empty(path, size, verify):
    """A damaged file is called so, with its size and sha256, whether or not the manifest is looked at."""
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(WeightsError, match=rf"checkpoint model.pt is damaged.*{size} bytes") as caught:
        load_weights(network(), path, verify=verify)
    assert str(path) in str(caught.value)


def test_fault_59_bit_flip(path):
    """A flipped bit is found before anything is loaded."""
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    net = zeroed()
    with pytest.raises(WeightsError, match=r"damaged.*sha256"):
        load_weights(net, path)
    assert not net[0].weight.any()


def test_fault_60_module_prefix(path, caplog):
    """The prefix of parallel training is taken off, and the log says so."""
    store({f"module.{name}": tensor for name, tensor in network().state_dict().items()}, path)
    with caplog.at_level(logging.INFO):
        load_weights(zeroed(), path)
    assert "module." in caplog.text


def test_fault_60_other_architecture(path):
    """Nothing fits: the counts and the first names are said, and the network is unchanged."""
    store({"down.weight": torch.ones(1), "up.weight": torch.ones(1)}, path)
    net = zeroed()
    with pytest.raises(WeightsError, match=r"0 of 9 tensors fit; 9 missing .0\.weight.*2 unexpected .down\.weight"):
        load_weights(net, path)
    assert not net[0].weight.any()


def test_fault_60_in_part(path):
    """One missing tensor is enough."""
    state = network().state_dict()
    del state["2.bias"]
    store(state, path)
    with pytest.raises(WeightsError, match=r"8 of 9 tensors fit; 1 missing .2\.bias"):
        load_weights(network(), path)


def test_fault_60_wrong_shape(path):
    """Names that fit with shapes that do not are refused."""
    with pytest.raises(WeightsError, match=r"7 of 9.*2 of another shape .2\.weight .2, 3. for .5, 3."):
        load_weights(network(out=5), path)


def test_allowed_head(path):
    """For fine-tuning, another head may be named; it keeps its own values."""
    net = network(out=5)
    before = net[2].weight.clone()
    assert load_weights(net, path, allow_missing=("2.*",)) == ["2.weight", "2.bias"]
    assert torch.equal(net[2].weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fault_61_not_finite(path, value):
    """NaN and infinity are refused on loading, with the tensor's name and the count."""
    state = network().state_dict()
    state["0.weight"][0, 0] = value
    store(state, path)
    with pytest.raises(WeightsError, match=r"NaN or infinite: 1 of 6 in 0\.weight"):
        load_weights(network(), path)


@pytest.mark.parametrize("value", [float("nan"), 1e6], ids=["nan", "too-large-for-float16"])
def test_not_finite_is_not_saved(path, value):
    """What could not be loaded is not saved; the old weights stay."""
    net = network()
    torch.nn.init.constant_(net[0].weight, value)
    with pytest.raises(WeightsError, match=r"0\.weight"):
        save_weights(net, path, origin="trained-here")
    assert manifest.verify(path).origin == "released"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "a list"),
        ({}, "an empty mapping"),
        ({"epoch": 3}, "epoch are not tensors"),
        (torch.ones(2), "a Tensor"),
    ],
    ids=["list", "empty", "numbers", "tensor"],
)
def test_not_a_state(path, content, message):
    store(content, path)
    with pytest.raises(WeightsError, match=message):
        load_weights(network(), path)


def test_full_checkpoint(path):
    """Of a checkpoint that also has an optimizer, the model is taken."""
    store({"model": network().state_dict(), "optimizer": {"lr": 1.0}}, path)
    assert load_weights(zeroed(), path) == []


def test_cannot_be_written(tmp_path):
    """A file in the folder's place is an environment fault."""
    (tmp_path / "models").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        save_weights(network(), tmp_path / "models" / "model.pt", origin="released")


def test_fault_63_killed_while_saving(path, monkeypatch):
    """Whatever is interrupted, weights of the final name verify, old or new, and no other .pt is left."""
    steps = ["fsync", "announce", "replace", "write_entry"]
    for step in steps:
        with monkeypatch.context() as patch:

            def stop(*_args, **_kwargs):
                raise KeyboardInterrupt

            owner = {"fsync": os, "replace": type(path)}.get(step, manifest)
            patch.setattr(owner, step, stop)
            with pytest.raises(KeyboardInterrupt):
                save_weights(zeroed(), path, origin="trained-here")
        manifest.verify(path)
        assert [p.name for p in path.parent.glob("*.pt")] == ["model.pt"]
