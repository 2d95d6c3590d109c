import pytest
import torch
from monai.inferers import SlidingWindowInferer

from neurobundle.errors import SettingError
from neurobundle.infer import AutocastInferer, autocast


def test_without_amp_it_changes_nothing() -> None:
    network, image = torch.nn.Conv3d(1, 2, 3, padding=1), torch.randn(1, 1, 8, 8, 8)
    window = SlidingWindowInferer((8, 8, 8))
    assert torch.equal(AutocastInferer(window)(image, network), window(image, network))


def test_amp_computes_in_bfloat16_and_answers_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autocast, "cpu_has_bfloat16", lambda: True)
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.conv3d(x, torch.ones(1, 1, 1, 1, 1))
        seen.append(y.dtype)
        return y

    assert AutocastInferer(amp=True, device="cpu")(torch.ones(1, 1, 2, 2, 2), network).dtype == torch.float32
    assert seen == [torch.bfloat16]


def test_amp_on_a_cpu_without_units_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autocast, "cpu_has_bfloat16", lambda: False)
    with pytest.raises(SettingError, match="CPU without bfloat16 units"):
        AutocastInferer(amp=True, device="cpu")
