"""FT-SAM: fine-tuning where the loss is flat (Zhu, Wei, Shen, Fan, Wu, ICCV 2023, "Enhancing Fine-Tuning Based Backdoor
Defense with Sharpness-Aware Minimization").

The neurons of a backdoor have large weights, and plain fine-tuning leaves them. Sharpness-aware minimisation trains at
the worst weights nearby, with a neighbourhood that is wider for larger weights (adaptive, Kwon et al., ICML 2021):

    ε = ρ · w² ∘ g / ‖|w| ∘ g‖,  g = ∇L(w),      w ← w - η · ∇L(w + ε)

so it is the large weights that shrink. L is the cross-entropy with smoothed labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images
from worker.algorithms.learning_rate import Schedule
from worker.algorithms.purifiers.objective import in_training
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.retraining import Augmentation, Choice, Recipe, retrain
from worker.algorithms.training import Loss, Progress, ignore

TINY = 1e-12  # keeps the quotient a number where the gradient is zero


def ft_sam(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    rho: float = 2.0,
    label_smoothing: float = 0.1,
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 0.01,
    schedule: Schedule = "cosine",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    augmentation: Augmentation = "crop_and_flip",
    choose: Choice = "last",
    seed: int = 0,
    progress: Progress = ignore,
    resume: Checkpoint | None = None,
    checkpoint: Keep = keep_nothing,
) -> Purified:
    """Train all weights of `model` on `clean` by adaptive SAM; both sets on the model's device.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `rho` is the radius of the neighbourhood,
    0 for plain fine-tuning; `label_smoothing`, in [0, 1), is the share of a label that goes to all classes alike. The
    held-out loss is that of the weights as they are. A step costs two of fine-tuning.

    The constants are the paper's, but for batches of 64 images instead of 256: few clean images give few steps.

    Raises `Diverged` when training fails twice.
    """
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        lr_scale="none",
        schedule=schedule,
        momentum=momentum,
        weight_decay=weight_decay,
        augmentation=augmentation,
        averaging=0.0,
        choose=choose,
        seed=seed,
    )
    loss = sharpness_aware(rho, label_smoothing)
    return retrain(model, clean, held_out, loss, recipe, progress=progress, resume=resume, checkpoint=checkpoint)


def sharpness_aware(rho: float, label_smoothing: float) -> Loss:
    """Cross-entropy at the weights that adaptive SAM with radius `rho` finds the worst; measured, it is at the weights
    as they are.

    Batch norms take their running statistics from the first pass alone, at the weights themselves: the second has
    copies to write to. In it ε is a constant, so that the gradient by w is ∇L(w + ε), whatever optimiser follows.
    """

    def classification(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)

    def as_it_is(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        return classification(network(x), labels)

    def at_the_worst(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        names, weights = zip(*network.named_parameters(), strict=True)
        gradients = torch.autograd.grad(as_it_is(network, x, labels), weights, materialize_grads=True)
        shifts = _ascent(weights, gradients, rho)
        shifted = {name: weight + shift for name, weight, shift in zip(names, weights, shifts, strict=True)}
        copies = {name: buffer.clone() for name, buffer in network.named_buffers()}
        return classification(functional_call(network, {**shifted, **copies}, (x,)), labels)

    return in_training(at_the_worst, otherwise=as_it_is)


@torch.no_grad()
def _ascent(weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float) -> list[Tensor]:
    """ε of each weight: ρ · w² ∘ g / ‖|w| ∘ g‖, the norm over all weights together."""
    pairs = list(zip(weights, gradients, strict=True))
    norm = torch.stack([(weight * gradient).norm() for weight, gradient in pairs]).norm()
    return [weight.square() * gradient * (rho / (norm + TINY)) for weight, gradient in pairs]
