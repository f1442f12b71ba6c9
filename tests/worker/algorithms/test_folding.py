from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import as_float
from worker.algorithms.folding import folded

X = as_float(noisy_stripes(8, seed=1).pixels)


class Looking(nn.Sequential):
    """Does one thing or another by what it sees: not to be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.mean() > 0 else -super().forward(x)  # type: ignore[no-any-return]


class Aware(nn.Sequential):
    """Something else when traced: only its logits can tell."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if type(self) is Aware and not isinstance(x, torch.fx.Proxy) else 2 * out  # type: ignore[no-any-return]


class Shared(nn.Module):
    """One convolution, two batch norms: neither can be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.one, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        assert self.one.running_mean is not None
        self.one.running_mean += 1.0

    def forward(self, x: Tensor) -> Tensor:
        return (self.one(self.convolution(x)) + 2 * self.other(self.convolution(x))).mean((2, 3))  # type: ignore[no-any-return]


def layers() -> list[nn.Module]:
    return [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)]


def has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_a_folded_network_gives_the_same_without_batch_norm(suspect: Classifier) -> None:
    before = copy.deepcopy(suspect)
    network = folded(suspect, X)
    assert not has_batch_norm(network)
    torch.testing.assert_close(network(X), suspect(X), rtol=1e-4, atol=1e-4)
    assert same_state(before, suspect)
    assert has_batch_norm(suspect)


def test_gradients_of_the_input_stay_the_same(suspect: Classifier) -> None:
    slopes = []
    for network in (suspect, folded(suspect, X)):
        x = X.clone().requires_grad_()
        slopes.append(torch.autograd.grad(network(x)[:, 0].sum(), x)[0])
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("network", [Looking(*layers()), Aware(*layers()), Shared()])
def test_what_cannot_be_folded_is_copied_as_it_is(network: nn.Module) -> None:
    network.eval()
    copied = folded(network, X)
    assert copied is not network
    assert has_batch_norm(copied)
    torch.testing.assert_close(copied(X), network(X))


def test_a_network_in_training_mode_is_folded_for_evaluation_and_stays_in_training_mode(suspect: Classifier) -> None:
    training = copy.deepcopy(suspect).train()
    network = folded(training, X)
    assert training.training
    torch.testing.assert_close(network(X), suspect(X), rtol=1e-4, atol=1e-4)
