"""Attention over bags: what a reader can count, then what must hold for any bag."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurobundle.errors import InputError, SettingError
from neurobundle.networks.attention_pool import AttentionAnswers, AttentionPool, pad_bags


def chooser() -> AttentionPool:
    """Scores a slice by its second feature: above 0 counts all, below 0 nothing."""
    pool = AttentionPool(features=2, hidden=1)
    with torch.no_grad():
        for layer, weights in ((pool.content, [0.0, 1000.0]), (pool.gate, [0.0, 0.0])):
            layer.weight.copy_(torch.tensor([weights]))
            layer.bias.zero_()
        pool.score.weight.fill_(200.0)  # the content is -1 or 1 and the gate a half, so scores are -100 or 100
    return pool


def any_pool(features: int, seed: int) -> AttentionPool:
    generator = torch.Generator().manual_seed(seed)
    pool = AttentionPool(features, hidden=5)
    with torch.no_grad():
        for values in pool.parameters():
            values.copy_(torch.randn(values.shape, generator=generator))
    return pool


def test_a_new_pool_gives_the_mean() -> None:
    bags, present = pad_bags([torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0], [3.0, 6.0]])])
    pooled, shares = AttentionPool(features=2)(bags, present)
    assert pooled.tolist() == [[1.0, 2.0], [2.0, 4.0]]
    assert shares.tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_slices_of_a_high_score_are_all_that_counts() -> None:
    bag = torch.tensor([[5.0, 1.0], [7.0, 1.0], [1000.0, -1.0]])
    pooled, shares = chooser()(*pad_bags([bag]))
    assert shares.tolist() == [[0.5, 0.5, 0.0]]
    assert pooled.tolist() == [[6.0, 1.0]]


def test_the_gate_halves_what_it_half_opens() -> None:
    """Content 1, gate sigmoid(0) = 1/2, score weight 2 log 3: a slice counts three times one whose content is 0."""
    pool = chooser()
    with torch.no_grad():
        pool.score.weight.fill_(2 * torch.tensor(3.0).log())
    shares = pool(*pad_bags([torch.tensor([[0.0, 1.0], [0.0, 0.0]])]))[1]
    assert shares[0].tolist() == pytest.approx([0.75, 0.25])


def test_answers_are_the_linear_layer_of_what_was_pooled() -> None:
    network = AttentionAnswers(features=2, classes=3)
    bags, present = pad_bags([torch.tensor([[1.0, 2.0], [3.0, 6.0]])])
    logits, shares = network(bags, present)
    assert torch.allclose(logits, network.fc(torch.tensor([[2.0, 4.0]])))
    assert logits.shape == (1, 3)
    assert shares.tolist() == [[0.5, 0.5]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 10**6))
def test_what_holds_for_any_bags(sizes: list[int], seed: int) -> None:
    """Filling, the company of other bags and the order of slices change nothing; shares are shares."""
    pool, generator = any_pool(3, seed), torch.Generator().manual_seed(seed + 1)
    own = [torch.randn(size, 3, generator=generator) for size in sizes]
    bags, present = pad_bags(own)
    pooled, shares = pool(bags, present)
    assert torch.allclose(shares.sum(dim=1), torch.ones(len(own)))
    assert (shares[~present] == 0).all()
    noisy = torch.where(present[..., None], bags, 1e6)
    assert torch.allclose(pool(noisy, present)[0], pooled, atol=1e-5)
    for number, bag in enumerate(own):
        order = torch.randperm(len(bag), generator=generator)
        alone, _ = pool(*pad_bags([bag[order]]))
        assert torch.allclose(alone[0], pooled[number], atol=1e-5)


def test_it_learns_which_slice_matters() -> None:
    """A bag's class is the sign of the first feature of its one marked slice; its other slices are noise."""
    generator = torch.Generator().manual_seed(0)
    bags, truth = [], []
    for n in range(80):
        bag = torch.randn(3 + n % 4, 4, generator=generator)
        bag[:, 3] = 0.0
        bag[0, 0], bag[0, 3] = (1.0 if n % 2 else -1.0), 1.0
        bags.append(bag)
        truth.append(n % 2)
    torch.manual_seed(0)
    network, labels = AttentionAnswers(4, 2, hidden=8), torch.tensor(truth)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(*pad_bags(bags[:60]))[0], labels[:60]).backward()
        optimizer.step()
    logits, shares = network(*pad_bags(bags[60:]))
    assert (logits.argmax(dim=1) == labels[60:]).float().mean() > 0.9
    assert shares[:, 0].mean() > 0.5, "more than the two to five others together"


def test_scripted_it_gives_the_same() -> None:
    network = AttentionAnswers(features=3, classes=2)
    network.pool = any_pool(3, 4)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(network), file)  # type: ignore[no-untyped-call]
    file.seek(0)
    scripted = torch.jit.load(file)  # type: ignore[no-untyped-call]
    bags = pad_bags([torch.ones(2, 3), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))])
    for ours, theirs in zip(network(*bags), scripted(*bags), strict=True):
        assert torch.allclose(ours, theirs)


def test_what_cannot_be_pooled() -> None:
    with pytest.raises(InputError, match="bag 1 has no slice"):
        AttentionPool(2)(torch.zeros(2, 3, 2), torch.tensor([[True, True, False], [False, False, False]]))
    for wrong in ([], [torch.zeros(2, 3), torch.zeros(2, 4)], [torch.zeros(3)]):
        with pytest.raises(InputError, match="the bags have the shapes"):
            pad_bags(wrong)
    with pytest.raises(SettingError, match="features is 0"):
        AttentionPool(0)
    with pytest.raises(SettingError, match="classes is 0"):
        AttentionAnswers(2, 0)
