"""Channel Lipschitz pruning: the bound by NumPy, the pairs in networks where convolutions and norms are apart."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state, small_classifier
from worker.algorithms.architectures.lenet5 import LeNet5
from worker.algorithms.architectures.small_densenet import densenet121
from worker.algorithms.classifier import Classifier
from worker.algorithms.errors import UnfitNetwork
from worker.algorithms.purifiers.clp import clp, lipschitz_bounds

IMAGES = noisy_stripes(12, size=16, seed=61)


class PreActivation(nn.Module):
    """Norm, convolution, norm, convolution, and a shortcut: only the second norm is behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1, self.norm2, self.norm3 = nn.Conv2d(3, 12, 3), *(nn.BatchNorm2d(12) for _ in range(3))
        self.conv1, self.conv2 = (nn.Conv2d(12, 12, 3, padding=1, bias=False) for _ in range(2))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))
        return self.head(torch.relu(self.norm3(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_the_bound_is_the_spectral_norm_times_what_the_norm_makes_of_it(suspect: Classifier) -> None:
    network = suspect.network
    bounds = lipschitz_bounds(suspect, IMAGES.pixels[0])
    assert len(bounds) == 20
    for name, convolution in (("layer2.0.bn2", "layer2.0.conv2"), ("layer3.0.downsample.1", "layer3.0.downsample.0")):
        norm = network.get_submodule(name)
        weight = network.get_parameter(f"{convolution}.weight").detach().double().numpy()
        scale, variance = (getattr(norm, one).detach().double().numpy() for one in ("weight", "running_var"))
        spectral = [np.linalg.svd(filters.reshape(len(filters), -1), compute_uv=False)[0] for filters in weight]
        expected = spectral * np.abs(scale) / np.sqrt(variance + 1e-5)
        assert bounds[f"network.{name}"].detach().numpy() == pytest.approx(expected, rel=1e-4)


def test_a_channel_that_stands_out_goes_and_no_other() -> None:
    model = small_classifier(width=16)
    with torch.no_grad():  # 16 channels of one bound, but for one
        norm = model.get_submodule("network.layer1.0.bn1")
        filters = model.get_parameter("network.layer1.0.conv1.weight")
        filters.copy_(filters[:1].expand_as(filters))
        filters[5] *= 2
        norm.bias.fill_(0.1)  # type: ignore[operator, union-attr]
    before = copy.deepcopy(model)
    result = clp(model, IMAGES, IMAGES, u=3.5)
    pruned = result.model.state_dict()
    kept = torch.arange(16) != 5
    for parameter in ("weight", "bias"):
        assert torch.equal(pruned[f"network.layer1.0.bn1.{parameter}"] != 0, kept)
    changed = [name for name, value in before.state_dict().items() if not torch.equal(value, pruned[name])]
    assert changed == ["network.layer1.0.bn1.weight", "network.layer1.0.bn1.bias"]
    assert (result.history[0]["pruned"], result.chosen_epoch, result.notes) == (1, 1, [])


def test_where_nothing_stands_out_nothing_changes(suspect: Classifier) -> None:
    result = clp(suspect, IMAGES, IMAGES, u=100.0)
    assert same_state(result.model, suspect)
    assert result.chosen_epoch == 0
    assert [note.code for note in result.notes] == ["nothing_pruned"]


def test_a_norm_is_paired_with_the_convolution_that_it_reads() -> None:
    assert set(lipschitz_bounds(PreActivation().eval(), IMAGES.pixels[0])) == {"norm2"}
    dense = lipschitz_bounds(densenet121(4, 3).eval(), IMAGES.pixels[0])
    assert "features.denseblock1.denselayer1.norm2" in dense
    assert "features.denseblock1.denselayer2.norm1" not in dense  # it reads several layers at once
    assert len(dense) == 58 + 1  # one a dense layer, and the stem's; DenseNet-121 has 58 dense layers


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (LeNet5(4, 3), "no batch norm"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(4)), "here none does"),
    ],
)
def test_a_network_without_such_layers_is_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(UnfitNetwork, match=reason):
        clp(model.eval(), IMAGES, IMAGES)
