"""ANP, adversarial neuron pruning (Wu & Wang, NeurIPS 2021).

The neurons of a backdoor are sensitive: small perturbations of them make the network see its target in any image. ANP
looks for the mask m of all batch norms' channels with which the worst perturbation does little,

    min over m in [0, 1] of  α · L_CE(m γ, β) + (1 - α) · max over |δ|, |ξ| ≤ ε of L_CE((m + δ) γ, (1 + ξ) β),

and prunes the channels of the lowest masks: their scale γ becomes zero, their shift β stays.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images
from worker.algorithms.metrics import logits
from worker.algorithms.purifiers.channels import as_far_as_accuracy_allows, batch_norms, notes_on, with_zeros
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.retraining import AUGMENTATIONS, Augmentation
from worker.algorithms.training import Loss, Progress, ignore, train

THRESHOLDS = [step / 20 for step in range(19)]  # 0 to 0.9, as the authors' code has them
SEARCH = 0.05  # its share of the time
NOTHING = "no channel is sensitive, or already the first ones cost more accuracy on held-out images than is allowed"


def anp(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    epsilon: float = 0.4,
    alpha: float = 0.2,
    steps: int = 2000,
    batch_size: int = 128,
    lr: float = 0.2,
    momentum: float = 0.9,
    augmentation: Augmentation = "crop_and_flip",
    max_drop: float = 0.05,
    seed: int = 0,
    progress: Progress = ignore,
    resume: Checkpoint | None = None,
    checkpoint: Keep = keep_nothing,
) -> Purified:
    """Find the channels of `model`'s batch norms that are sensitive on `clean`, and prune them, the most sensitive
    first; the last state before `held_out` loses `max_drop` of its accuracy (a fraction in [0, 1]) is the result.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `epsilon` is the size of the perturbation,
    relative to scale and shift; `steps` are rounded up to whole epochs. The history is of thresholds from 0 to 0.9, at
    or below which a mask means that its channel is pruned. Where nothing was pruned a note says so.

    Differs from the paper in the stop, for which the authors' code looks at test images, and in projecting the
    perturbation into its box, where that code lets its one step lead out.

    Raises `UnfitNetwork` for a network without batch norms.
    """
    norms = {name: norm.num_features for name, norm in batch_norms(model).items()}
    masks = nn.ParameterList([torch.ones(sum(norms.values()), device=clean.pixels.device)])
    optimizer = torch.optim.SGD(masks.parameters(), lr, momentum=momentum)
    done = _restore(masks, optimizer, resume) if resume else 0
    epochs = math.ceil(steps / math.ceil(len(clean) / batch_size))
    training = train(
        masks,
        clean,
        first_epoch=done,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        loss=_objective(model, norms, epsilon, alpha),
        augment=AUGMENTATIONS[augmentation],
        seed=seed,
        after_step=lambda: _clamp(masks),
    )
    for epoch, _ in enumerate(training, start=done + 1):
        checkpoint(lambda epoch=epoch: _checkpoint(masks, optimizer, epoch))  # type: ignore[misc]
        progress((1 - SEARCH) * epoch / epochs)

    def searched(done: float) -> None:
        progress(1 - SEARCH + SEARCH * done)

    return _prune(model, norms, masks[0].detach(), held_out, max_drop, searched)


def _objective(model: nn.Module, norms: dict[str, int], epsilon: float, alpha: float) -> Loss:
    """α · cross-entropy + (1 - α) · cross-entropy of perturbed neurons, by the mask of all batch norms in their order.

    The perturbation is one step of ε along the gradient's sign, from a random start in its box: drawn from torch's
    global generator, which `train` seeds for each epoch. Batch norms are in training mode, as in the authors' code.
    """
    network = copy.deepcopy(model).train().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(masks: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        (mask,) = masks.parameters()

        def cross_entropy(scale: Tensor, shift: Tensor) -> Tensor:
            weights = {}
            for parameter, factors in (("weight", scale), ("bias", shift)):
                for name, factor in zip(norms, torch.split(factors, list(norms.values())), strict=True):
                    key = f"{name}.{parameter}"
                    weights[key] = network.get_parameter(key) * factor
            return F.cross_entropy(functional_call(network, weights, (x,)).float(), labels)

        unmoved = torch.ones_like(mask)
        noise = torch.empty(2, len(mask), device=mask.device).uniform_(-epsilon, epsilon).requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(mask.detach() + noise[0], 1 + noise[1]), noise)
        worst = (noise.detach() + epsilon * slope.sign()).clamp(-epsilon, epsilon)
        perturbed = cross_entropy(mask + worst[0], 1 + worst[1])
        return alpha * cross_entropy(mask, unmoved) + (1 - alpha) * perturbed

    return loss


@torch.no_grad()
def _clamp(masks: nn.ParameterList) -> None:
    masks[0].clamp_(0, 1)


def _prune(
    model: nn.Module, norms: dict[str, int], mask: Tensor, held_out: Images, max_drop: float, progress: Progress
) -> Purified:
    """By thresholds of the mask, as far as the held-out accuracy allows; those that prune nothing more are left out."""
    counts = [int((mask <= threshold).sum()) for threshold in THRESHOLDS]
    fewer = [0, *counts]
    steps = [at for at in range(len(THRESHOLDS)) if counts[at] > fewer[at]]

    def pruned(step: int) -> nn.Module:
        gone = mask <= (THRESHOLDS[steps[step - 1]] if step else -1)
        channels = zip(norms, torch.split(gone, list(norms.values())), strict=True)
        return with_zeros(model, {f"{name}.weight": where for name, where in channels})

    chosen, history = as_far_as_accuracy_allows(
        [{"threshold": THRESHOLDS[at], "pruned": float(counts[at])} for at in steps],
        lambda step: logits(pruned(step), held_out.pixels),
        held_out.labels,
        max_drop=max_drop,
        progress=progress,
    )
    return Purified(pruned(chosen), history, chosen, notes=notes_on(chosen, NOTHING))


def _checkpoint(masks: nn.ParameterList, optimizer: torch.optim.Optimizer, epochs: int) -> Checkpoint:
    (state,) = optimizer.state.values()
    return Checkpoint(
        {"epochs": epochs}, {"mask": masks[0].detach().clone(), "momentum": state["momentum_buffer"].clone()}
    )


def _restore(masks: nn.ParameterList, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> int:
    """Put the mask and its momentum back; the number of epochs that they have behind them."""
    with torch.no_grad():
        masks[0].copy_(checkpoint.tensors["mask"])
    optimizer.state[masks[0]] = {"momentum_buffer": checkpoint.tensors["momentum"].to(masks[0].device, copy=True)}
    epochs: int = checkpoint.facts["epochs"]
    return epochs
