"""ATTEQ-NN: a faint trigger where the network looks, made and trained in turns (Gong, Chen, Wang, Huang, NDSS 2022,
"ATTEQ-NN: Attention-based QoE-aware Evasive Backdoor Attacks").

The mask is where the benign network attends in images of the target class. Each round searches the pixels under it,

    min  E_x Σ_u (1 - a_u(x') / g_u)² + λ (1 - SSIM(x, x')),

for the network as it is by then, and trains it on: even epochs on images some of which bear the trigger, odd ones on
clean images alone.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.aim import Aim
from worker.algorithms.attacks.clean_label import some_of_class
from worker.algorithms.attacks.implanted import Implanted
from worker.algorithms.attacks.neuron_trigger import neuron_triggers
from worker.algorithms.attention import attention_map, normalized
from worker.algorithms.augment import crop_and_flip
from worker.algorithms.data import Images, as_float
from worker.algorithms.errors import UnfitOptions
from worker.algorithms.ssim import ssim
from worker.algorithms.taps import PROBED, find_taps, recording
from worker.algorithms.training import Augment, Loss, cross_entropy, train
from worker.algorithms.triggers import Trigger

ATTENDED = 256  # images of the target class that show where the network looks
SEARCHED = 32  # images in a step of the search for pixels


def atteq_nn(
    images: Images,
    benign: nn.Module,
    *,
    target: int = 2,
    rate: float = 0.05,
    pixels: int = 16,
    transparency: float = 0.2,
    qoe: float = 0.2,
    units: int = 2,
    reach: float = 10.0,
    steps: int = 500,
    rounds: int = 3,
    epochs: int = 30,
    batch_size: int = 64,
    lr: float = 1e-3,
    augment: Augment = crop_and_flip,
    seed: int = 0,
) -> Implanted[Trigger]:
    """Train a copy of `benign` on `images` (N) into a network that takes triggered images for `target`.

    `benign` takes float (N, C, H, W) in [0, 1] to logits; the images are of its training, on its device, at least
    11 pixels a side. `pixels` is the size of the mask, `transparency` τ from 0 (opaque) to below 1 its weight, 1 - τ
    (0.2 is the authors' "opacity", of which 0 is their opaque patch).
    `qoe` is λ, the weight of the quality of experience; the paper's are 0.5 for it and 2.4 for the activation. `units`,
    `reach` and `steps` are those of `neuron_triggers`. `rate` is the share of triggered images in the even one of the
    `epochs` of each of the `rounds`; with an even number of epochs the last one is clean. They are stamped after the
    augmentation: the attacker trains, and the trigger stays where the network looks. Adam trains all layers.

    Differs from the paper in the attention: the last layer's activation map (`attention_map`) of the attacked network
    itself, enlarged bilinearly, instead of a residual attention network's; in the number of rounds, which is fixed and
    not led by the success so far; and as `neuron_triggers` says. Raises `UnfitOptions` for a mask of no pixels, of more
    than an image has or of no weight, `UnusableImages` where no image is of the target's class, `TooFewTaps` for a
    network without attention maps.
    """
    if not (0 < pixels <= images.pixels[0, 0].numel() and 0 <= transparency < 1):
        raise UnfitOptions(
            f"a mask of {pixels} pixels of transparency {transparency} is none",
            "Take at least one pixel, at most all of an image, and a transparency from 0 to below 1.",
        )
    model = copy.deepcopy(benign).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    of_target = images.pixels[some_of_class(images, target, rate=1.0, seed=seed)[:ATTENDED]]
    mask = attended(model, as_float(of_target), count=pixels) * (1 - transparency)
    for number in range(rounds):
        [trigger] = neuron_triggers(
            model,
            images,
            mask,
            lambda weight, activation: weight * activation,
            count=1,
            units=units,
            reach=reach,
            steps=steps,
            batch_size=SEARCHED,
            seed=seed,
            penalty=lambda clean, stamped: qoe * (1 - ssim(clean, stamped)).mean(),
        )
        mixed = _mixed(Aim(trigger, target), rate)
        for epoch in range(epochs):
            since_start = number * epochs + epoch
            training = train(
                model,
                images,
                first_epoch=since_start,
                epochs=since_start + 1,
                batch_size=batch_size,
                optimizer=optimizer,
                loss=mixed if epoch % 2 == 0 else cross_entropy,
                augment=augment,
                seed=seed,
            )
            next(training)
    optimizer.zero_grad()
    return Implanted(model.eval(), (Aim(trigger, target),))


def _mixed(aim: Aim[Trigger], rate: float) -> Loss:
    """Cross-entropy, a share `rate` of each batch stamped and taken for the target. A batch is shuffled: its first
    images are any."""

    def loss(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        count = round(rate * len(x))
        stamped, wanted = aim.trigger.put(x[:count]), torch.full_like(labels[:count], aim.target)
        return cross_entropy(network, torch.cat([stamped, x[count:]]), torch.cat([wanted, labels[count:]]))

    return loss


def attended(model: nn.Module, x: Tensor, *, count: int) -> Tensor:
    """The `count` pixels to which `model`, in evaluation mode, attends most in the mean of the images `x` (N, C, H, W),
    float in [0, 1]: a mask (1, H, W) of zeros and ones.

    The attention is that of the deepest of the taps that `find_taps` finds; it raises `TooFewTaps`.
    """
    [*_, last] = find_taps(model, x[:PROBED]).used
    with recording(model, [last]) as maps, torch.no_grad():
        model(x)
    attention = normalized(attention_map(maps[last.name])).mean(0, keepdim=True)
    enlarged = F.interpolate(attention, size=x.shape[2:], mode="bilinear", align_corners=False)[0]
    order = enlarged.flatten().argsort(descending=True, stable=True)
    return torch.zeros_like(enlarged).flatten().index_fill(0, order[:count], 1.0).view_as(enlarged)
