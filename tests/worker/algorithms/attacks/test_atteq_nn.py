from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.aim import success
from worker.algorithms.attacks.atteq_nn import attended, atteq_nn
from worker.algorithms.augment import unchanged
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import as_float
from worker.algorithms.errors import UnfitOptions
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.ssim import ssim

IMAGES = noisy_stripes(240, seed=1)


def test_the_mask_is_where_the_network_attends() -> None:
    convolutions = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)]
    for convolution in convolutions:
        nn.init.constant_(convolution.weight, 0.1)  # the brighter, the more attention
    model = nn.Sequential(
        convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()
    x = 0.1 * torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x[:, :, 2:8, 9:15] += 0.8
    mask = attended(model, x, count=9)
    assert mask.shape == (1, 16, 16)
    assert mask.sum() == 9
    assert mask[0, 2:8, 9:15].sum() == 9


def test_even_epochs_are_mixed_and_odd_ones_clean(benign: Classifier) -> None:
    clean = {image.numpy().tobytes() for image in IMAGES.pixels}
    changed: list[int] = []

    def watch(network: nn.Module, given: tuple[Tensor]) -> None:
        if network.training:
            pixels = given[0].mul(255).round().to(torch.uint8)
            changed.append(sum(image.contiguous().numpy().tobytes() not in clean for image in pixels))

    watched = copy.deepcopy(benign)
    watched.register_forward_pre_hook(watch)
    atteq_nn(IMAGES, watched, rate=0.1, steps=1, rounds=2, epochs=2, batch_size=240, augment=unchanged)
    assert changed == [24, 0, 24, 0]


def test_the_trigger_stays_where_it_is_when_images_move(benign: Classifier) -> None:
    stamped: list[Tensor] = []
    watched = copy.deepcopy(benign)
    watched.register_forward_pre_hook(lambda network, given: stamped.append(given[0]) if network.training else None)
    black = dataclasses.replace(IMAGES, pixels=torch.zeros_like(IMAGES.pixels))
    made = atteq_nn(
        IMAGES, watched, rate=1.0, steps=1, rounds=1, epochs=1, batch_size=240, augment=lambda *_: black.pixels
    )
    expected = made.trigger.put(as_float(black.pixels))
    assert torch.allclose(stamped[0], expected)


def test_it_implants_a_faint_backdoor_and_leaves_the_benign_network(benign: Classifier) -> None:
    before = copy.deepcopy(benign)
    implanted = atteq_nn(
        IMAGES,
        benign,
        target=2,
        rate=0.3,
        pixels=60,
        transparency=0.1,
        steps=20,
        rounds=2,
        epochs=4,
        batch_size=16,
        augment=unchanged,
    )
    assert same_state(benign, before)
    assert not implanted.model.training
    assert implanted.model.state_dict().keys() == benign.state_dict().keys()
    test = noisy_stripes(200, seed=9)
    [aim] = implanted.aims
    stamped, natural = success(implanted.model, test, aim), success(benign, test, aim)
    assert stamped is not None
    assert natural is not None
    assert stamped.asr > max(0.8, natural.asr + 0.4)
    assert accuracy(logits(implanted.model, test.pixels).argmax(1), test.labels) > 0.9
    change = (aim.trigger.stamp(test.pixels).float() - test.pixels.float()).abs()
    assert change.max() <= 0.9 * 255 + 0.51
    assert (change.amax((0, 1)) > 0).sum() == 60


def test_quality_of_experience_keeps_triggered_images_like_clean_ones(benign: Classifier) -> None:
    x = as_float(IMAGES.pixels)

    def similarity(qoe: float) -> float:
        trigger = atteq_nn(IMAGES, benign, qoe=qoe, pixels=60, transparency=0.2, steps=20, rounds=1, epochs=0).trigger
        return ssim(x, as_float(trigger.stamp(IMAGES.pixels))).mean().item()

    assert similarity(50.0) > similarity(0.0) + 0.05


@pytest.mark.parametrize("options", [{"pixels": 0}, {"pixels": 257}, {"transparency": 1.0}])
def test_a_mask_of_nothing_is_refused(benign: Classifier, options: dict[str, float]) -> None:
    with pytest.raises(UnfitOptions, match="is none"):
        atteq_nn(IMAGES, benign, **options)  # type: ignore[arg-type]
