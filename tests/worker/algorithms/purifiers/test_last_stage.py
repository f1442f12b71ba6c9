"""The last stage of real networks: what the classifier reads, masked where it is read and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state, small_classifier
from worker.algorithms.architectures.lenet5 import LeNet5
from worker.algorithms.architectures.small_squeezenet import squeezenet
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import as_float
from worker.algorithms.errors import UnfitNetwork
from worker.algorithms.metrics import logits
from worker.algorithms.purifiers.channels import with_zeros
from worker.algorithms.purifiers.last_stage import activity, features_of, find_last_stage, logits_without

IMAGES = noisy_stripes(6, size=32, seed=51)


def vgg() -> nn.Module:
    """Flattened maps, and several linear layers behind them."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(8)),
        nn.Flatten(),
        nn.Sequential(nn.Linear(80, 9), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(9, 4)),
    )


class Transformer(nn.Module):
    """Tokens of 8×8 patches, one layer, their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8)
        self.block = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.block(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(tokens.mean(1))  # type: ignore[no-any-return]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, int, int]] = {
    "resnet": (lambda: small_classifier(width=4).network, "fc", 32, 1),
    "vgg": (vgg, "2.0", 5, 16),
    "lenet": (lambda: LeNet5(4, 3), "fc1", 120, 1),
    "squeezenet": (lambda: squeezenet(4, 3), "classifier.1", 512, 0),
    "transformer": (Transformer, "head", 12, 1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_zeros_in_the_weights_are_zeros_in_what_they_read(name: str) -> None:
    build, reader, channels, positions = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(build(), (0.5,) * 3, (0.25,) * 3).eval()
    before = copy.deepcopy(model)
    stage = find_last_stage(model, as_float(IMAGES.pixels[:2]))
    assert (stage.reader, stage.channels, stage.positions) == (f"network.{reader}", channels, positions)

    features = features_of(model, stage, IMAGES.pixels)
    everything, nothing = torch.ones(channels, dtype=torch.bool), torch.zeros(channels, dtype=torch.bool)
    some = torch.arange(channels) % 3 == 1
    for gone in (nothing, some, everything):
        expected = logits(with_zeros(model, stage.zeros(gone)), IMAGES.pixels)
        found = logits_without(model, stage, features, gone, IMAGES.pixels[0])
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(with_zeros(model, stage.zeros(some)), IMAGES.pixels), logits(model, IMAGES.pixels))
    assert same_state(model, before)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_channel_is_all_its_places() -> None:
    """Zeros in the filters of a plain network do the same as zeros where the flattened map is read."""
    model = vgg().eval()
    stage = find_last_stage(model, as_float(IMAGES.pixels[:2]))
    gone = torch.tensor([False, True, False, True, True])
    filters = with_zeros(model, {"0.0.weight": gone[:, None, None, None], "0.0.bias": gone})
    pruned = with_zeros(model, stage.zeros(gone))
    assert torch.allclose(logits(filters, IMAGES.pixels), logits(pruned, IMAGES.pixels), atol=1e-6)


def test_the_activity_is_the_mean_activation_of_the_map() -> None:
    model = vgg().eval()
    stage = find_last_stage(model, as_float(IMAGES.pixels[:2]))
    maps = model[0](as_float(IMAGES.pixels)).detach().double()  # type: ignore[index]
    found = activity(stage, features_of(model, stage, IMAGES.pixels))
    assert torch.allclose(found.double(), maps.mean((0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("layers", [[nn.Flatten(), nn.Linear(3072, 4)], [nn.Flatten(), nn.Softmax(1)]])
def test_a_network_without_maps_is_refused(layers: list[nn.Module]) -> None:
    with pytest.raises(UnfitNetwork, match="none before the classifier"):
        find_last_stage(nn.Sequential(*layers), as_float(IMAGES.pixels[:2]))
