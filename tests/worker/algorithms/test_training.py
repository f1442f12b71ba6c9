from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state, small_classifier
from worker.algorithms.augment import crop_and_flip, unchanged
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.training import cross_entropy, fit, train, validate


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)


def trained(seed: int = 0, epochs: int = 2) -> Classifier:
    model = small_classifier()
    optimizer = sgd(model)
    list(
        train(
            model,
            noisy_stripes(96),
            epochs=epochs,
            batch_size=32,
            optimizer=optimizer,
            loss=cross_entropy,
            augment=crop_and_flip,
            seed=seed,
        )
    )
    return model


def test_one_step_is_that_of_plain_pytorch() -> None:
    # One batch of everything, no augmentation, float64: shuffling then only changes the order of a mean.
    images = noisy_stripes(12)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    by_hand = copy.deepcopy(linear)
    list(
        train(
            linear,
            images,
            epochs=1,
            batch_size=12,
            optimizer=torch.optim.SGD(linear.parameters(), 0.1),
            loss=lambda model, x, y: nn.functional.cross_entropy(model.float()(x.float()), y),
            augment=unchanged,
            seed=0,
        )
    )
    loss = nn.functional.cross_entropy(by_hand(images.pixels.float() / 255), images.labels)
    gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
    for parameter, before, gradient in zip(linear.parameters(), by_hand.parameters(), gradients, strict=True):
        assert torch.allclose(parameter, before - 0.1 * gradient, atol=2e-3)


def test_each_epoch_visits_every_image_once_in_even_batches() -> None:
    images = Images(
        torch.arange(65, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).clone(),
        torch.zeros(65, dtype=torch.int64),
    )
    seen: list[list[int]] = []

    def spy(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        seen.append((x[:, 0, 0, 0] * 255).round().int().tolist())
        return sum(p.sum() for p in model.parameters()) * 0  # type: ignore[return-value]

    model = nn.Linear(1, 1)
    options = {"epochs": 2, "batch_size": 32, "loss": spy, "augment": unchanged, "seed": 0}
    list(train(model, images, optimizer=sgd(model), **options))  # type: ignore[arg-type]
    assert [len(batch) for batch in seen] == [22, 22, 21] * 2
    for epoch in (seen[:3], seen[3:]):
        assert sorted(itertools.chain(*epoch)) == list(range(65))
    assert seen[0] != seen[3]


def test_the_same_seed_gives_the_same_weights_to_the_bit() -> None:
    assert same_state(trained(seed=1), trained(seed=1))
    assert not same_state(trained(seed=1), trained(seed=2))


def test_dropout_follows_the_seed_and_the_callers_randomness_is_left_alone() -> None:
    def run() -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(3 * 16 * 16, 4))
        list(
            train(
                model,
                noisy_stripes(32),
                epochs=2,
                batch_size=16,
                optimizer=sgd(model),
                loss=cross_entropy,
                augment=unchanged,
                seed=3,
            )
        )
        return next(model.parameters()).detach()

    first = run()
    after = torch.rand(1)
    torch.manual_seed(99)
    torch.rand(7)
    assert torch.equal(first, run())
    assert torch.equal(after, torch.rand(1))


def test_stopping_early_leaves_what_the_epochs_so_far_made() -> None:
    whole, cut = small_classifier(), small_classifier()
    options = {"batch_size": 32, "loss": cross_entropy, "augment": crop_and_flip, "seed": 0}
    list(train(whole, noisy_stripes(64), epochs=1, optimizer=sgd(whole), **options))  # type: ignore[arg-type]
    next(train(cut, noisy_stripes(64), epochs=5, optimizer=sgd(cut), **options))  # type: ignore[arg-type]
    assert same_state(whole, cut)


def test_fit_learns(benign: Classifier) -> None:
    images = noisy_stripes(400, seed=7)
    with torch.no_grad():
        predictions = benign(images.pixels.float() / 255).argmax(1)
    assert (predictions == images.labels).float().mean() > 0.9


def test_fit_ends_with_a_rate_of_zero() -> None:
    model = small_classifier()
    losses = list(fit(model, noisy_stripes(64), augment=unchanged, epochs=3, batch_size=32))
    assert len(losses) == 3
    assert losses[-1] == pytest.approx(min(losses), rel=0.5)


def test_validation_is_over_images_not_over_batches_and_leaves_the_network_as_it_was() -> None:
    model, images = small_classifier().train(), noisy_stripes(10)
    before = copy.deepcopy(model)
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(images.pixels.float() / 255)
    loss, accuracy = validate(model, images, cross_entropy, batch_size=7)
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, images.labels).item(), rel=2e-2)
    assert accuracy == pytest.approx((logits.argmax(1) == images.labels).float().mean().item(), abs=0.1)
    assert model.training
    assert same_state(model, before)
    assert not model._forward_hooks


def test_validation_runs_the_network_once() -> None:
    model, calls = small_classifier(), []
    model.register_forward_hook(lambda module, x, logits: calls.append(len(logits)))
    validate(model, noisy_stripes(10), cross_entropy, batch_size=7)
    assert calls == [7, 3]


def test_validation_gives_the_modes_back_when_the_loss_fails() -> None:
    model = small_classifier().train()

    def failing(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        validate(model, noisy_stripes(4), failing)
    assert model.training
    assert not model._forward_hooks
