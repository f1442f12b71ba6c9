"""Fine-tuning: the suspect goes on training on clean images. The baseline of every purifier that trains."""

from __future__ import annotations

from torch import nn

from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images
from worker.algorithms.learning_rate import Schedule
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.retraining import Augmentation, Choice, Recipe, retrain
from worker.algorithms.training import Progress, cross_entropy, ignore


def fine_tuning(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    epochs: int = 50,
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
    """Train all weights of `model` on `clean` by cross-entropy; both sets on the model's device.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. Fifty epochs, as the SAGE paper gives its
    baselines (IEEE S&P 2023, section V); what it does not give has the usual values: SGD at 0.01 down a cosine. The
    rate decides: below a hundredth or so nothing of a backdoor goes. `choose` takes the last epoch, or that of the
    lowest held-out loss, which on a suspect that fits the images well is an early one, with the backdoor intact.

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
    return retrain(
        model, clean, held_out, cross_entropy, recipe, progress=progress, resume=resume, checkpoint=checkpoint
    )
