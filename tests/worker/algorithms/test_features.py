from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, small_classifier
from worker.algorithms.architectures.small_squeezenet import squeezenet
from worker.algorithms.augment import unchanged
from worker.algorithms.data import as_float
from worker.algorithms.errors import UnknownTap
from worker.algorithms.features import LastLayerAlone, features, find_head, penultimate
from worker.algorithms.training import fit

PIXELS = noisy_stripes(6).pixels


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_the_head_makes_the_logits_of_the_features() -> None:
    model = small_classifier()
    x = as_float(PIXELS)
    found = penultimate(model, x)
    assert found.shape == (6, 64)
    assert torch.allclose(model.get_submodule(find_head(model, x))(found), model(x), atol=1e-6)
    assert hooks(model) == 0


def test_the_gradient_flows_to_the_images() -> None:
    x = as_float(PIXELS).requires_grad_()
    penultimate(small_classifier(), x).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()


class HeadFirst(nn.Module):
    """Its head is registered before the layers that run before it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 2)
        self.body = nn.Linear(3 * 16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x.flatten(1)).tanh())
        return logits


def test_the_head_is_the_layer_that_runs_last_not_the_one_that_stands_last() -> None:
    model, x = HeadFirst(), as_float(PIXELS)
    assert find_head(model, x) == "head"
    assert torch.equal(penultimate(model, x), model.body(x.flatten(1)).tanh())


def test_a_head_that_is_a_convolution_gives_the_mean_of_its_map() -> None:
    model = squeezenet(4, 3).eval()
    x = as_float(noisy_stripes(2, size=32).pixels)
    assert find_head(model, x) == "classifier.1"
    expected = model.features(x).mean((2, 3))
    assert torch.allclose(penultimate(model, x), expected, atol=1e-6)


def test_a_transformer_gives_the_token_of_its_head() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, depth=1, embed_dim=24, num_heads=2, num_classes=4
    ).eval()
    x = as_float(PIXELS)
    found = penultimate(model, x)
    assert found.shape == (6, 24)
    assert torch.allclose(model.get_submodule("head")(found), model(x), atol=1e-6)


def test_all_images_in_evaluation_mode_and_the_mode_is_put_back() -> None:
    model = small_classifier().train()
    batched = features(model, PIXELS, batch_size=4)
    assert model.training
    assert not batched.requires_grad
    assert torch.allclose(batched, penultimate(model.eval(), as_float(PIXELS)), atol=1e-5)


def test_a_network_without_layers_is_refused_and_its_hooks_are_gone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.ReLU())
    with pytest.raises(UnknownTap, match="no penultimate features"):
        penultimate(model, as_float(PIXELS))
    assert hooks(model) == 0


def test_training_the_last_layer_alone_changes_nothing_else() -> None:
    model, images = small_classifier(), noisy_stripes(64)
    before = copy.deepcopy(model.state_dict())
    alone = LastLayerAlone(model, as_float(PIXELS))
    list(fit(alone, images, augment=unchanged, epochs=2, batch_size=16, lr=0.1))
    after = alone.model.state_dict()
    head = find_head(model, as_float(PIXELS))
    assert {name for name in before if not torch.equal(after[name], before[name])} == {f"{head}.weight", f"{head}.bias"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(features(alone.model, PIXELS), features(model, PIXELS))
