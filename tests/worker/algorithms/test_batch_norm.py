"""Statistics of batch norms, estimated anew: against the whole set at once, worked out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.worker.algorithms.networks import noisy_stripes, same_state, small_classifier
from worker.algorithms.batch_norm import reestimate
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import as_float

IMAGES = noisy_stripes(50, size=8, seed=41)


def network() -> nn.Sequential:
    """One batch norm, with statistics that are of no images at all."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.9), nn.Flatten(), nn.Linear(180, 2))
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    torch.nn.init.normal_(model[0].weight, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    norm.running_mean = torch.full((5,), float("nan"))
    norm.running_var = torch.full((5,), 1e9)
    return model.eval()


@pytest.mark.parametrize("batch_size", [50, 17, 7])
def test_the_statistics_are_those_of_the_images(batch_size: int) -> None:
    model = network()
    features = model[0](as_float(IMAGES.pixels)).detach().double()
    reestimate(model, IMAGES, batch_size=batch_size)
    state = model.state_dict()
    assert torch.allclose(state["1.running_mean"].double(), features.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    # The means of the batches scatter a little, which the average of their variances leaves out.
    assert torch.allclose(state["1.running_var"].double(), features.var((0, 2, 3)), rtol=0.05)


def test_a_deep_norm_sees_what_the_norms_before_it_give_in_the_same_batch(suspect: Classifier) -> None:
    """With one batch that is the network in training mode, whose second pass over the same batch changes nothing."""
    model, trained = copy.deepcopy(suspect), copy.deepcopy(suspect)
    reestimate(model, IMAGES, batch_size=50)
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    trained.train()(as_float(IMAGES.pixels).contiguous(memory_format=torch.channels_last))
    for name, value in trained.named_buffers():
        if "running" in name:
            assert torch.allclose(model.get_buffer(name), value, rtol=1e-4, atol=1e-6), name


def test_only_statistics_change(suspect: Classifier) -> None:
    model = copy.deepcopy(suspect)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[3].momentum = 0.3
    reestimate(model, IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), suspect.parameters(), strict=True))
    assert not torch.equal(norms[0].running_mean, suspect.network.bn1.running_mean)  # type: ignore[arg-type, union-attr]
    assert [norm.momentum for norm in norms[2:5]] == [0.1, 0.3, 0.1]
    assert all(int(norm.num_batches_tracked) == 1 for norm in norms)  # type: ignore[arg-type]
    assert not any(module.training for module in model.modules())


def test_each_module_has_its_own_mode_again() -> None:
    model = small_classifier().train()
    model.network.get_submodule("layer1").eval()
    before = [module.training for module in model.modules()]
    reestimate(model, IMAGES)
    assert [module.training for module in model.modules()] == before


def test_twice_is_once(suspect: Classifier) -> None:
    once, twice = copy.deepcopy(suspect), copy.deepcopy(suspect)
    reestimate(once, IMAGES, batch_size=20)
    reestimate(twice, noisy_stripes(30, size=8, seed=42))
    reestimate(twice, IMAGES, batch_size=20)
    assert same_state(once, twice)


def test_a_network_without_batch_norms_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)).eval()
    before = copy.deepcopy(model)
    reestimate(model, IMAGES)
    assert same_state(model, before)
