"""Hidden Trigger (HB): poisons that show the target class and carry the features of patched images of another
(Saha, Subramanya, Pirsiavash, AAAI 2020).

    min over ‖δ‖∞ ≤ ε of Σ ‖f(t + δ) - f(s̃)‖²        t of the target class, s̃ patched images of the source class,

with f the penultimate features of a benign network. The poisons keep their labels, which are right, and the patch is in
none of them: the victim never sees it before the attack.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.aim import Aim
from worker.algorithms.attacks.clean_label import some_of_class
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.data import Images, as_float
from worker.algorithms.features import features, penultimate
from worker.algorithms.folding import folded
from worker.algorithms.precision import autocast

COLOURS = 4  # in a row of the patch, before it is enlarged
AT_ONCE = 500  # poisons in one pass
PAIRED = 25  # steps from one pairing of poisons with patched images to the next


@dataclass(frozen=True)
class RoamingPatch:
    """`patch` (C, h, w) in [0, 1], pasted at another random place of each image; the places follow from `seed` and the
    image's number in the batch."""

    patch: Tensor
    seed: int

    def stamp(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to the same, patched."""
        count, _, height, width = pixels.shape
        high, wide = self.patch.shape[1:]
        generator = torch.Generator().manual_seed(self.seed)
        top = torch.randint(0, height - high + 1, (count, 1, 1), generator=generator)
        left = torch.randint(0, width - wide + 1, (count, 1, 1), generator=generator)
        rows, columns = top + torch.arange(high)[:, None], left + torch.arange(wide)
        patch = self.patch.mul(255).round().to(torch.uint8).to(pixels.device)
        stamped = pixels.clone()
        stamped[torch.arange(count)[:, None, None], :, rows, columns] = patch.permute(1, 2, 0)
        return stamped


def hidden_trigger(
    images: Images,
    benign: nn.Module,
    *,
    source: int = 1,
    target: int = 0,
    rate: float = 0.2,
    per_class: int | None = None,
    size: int = 8,
    epsilon: float = 16 / 255,
    steps: int = 300,
    lr: float = 0.01,
    seed: int = 0,
) -> Poisoned[RoamingPatch]:
    """Craft poisons from a share of the images of class `target`, so that patched images of class `source` are taken
    for it; no label changes.

    `benign` takes float (N, C, H, W) in [0, 1] to logits, and is the victim's network before the attack: the victim
    goes on training its last layer alone (`start`, `layers`). Training all layers pulls the features of poisons
    and patched images apart again, and the backdoor fades; against training from scratch the attack does not work.
    `rate` is a share of the target's class, not of all images. `per_class` clean images of each class are what the
    victim has beside the poisons, none: all; in the paper they are 800 beside 100 to 400 poisons, and with many more
    the last layer takes the poisons for noise. The patch is of 4 × 4 random colours,
    enlarged bilinearly to `size` pixels square. `epsilon` is ε as a share of the pixels' range, as in the paper.

    Every poison has a patched source image of its own as its goal, by a greedy pairing of the nearest features. Differs
    from the paper: the patched images are drawn once, as in the authors' code; the pairs are made anew every 25 steps
    and not at each, which moves few of them; and the steps are Adam's with a rate that falls to zero, so that one `lr`
    (a share of the pixels' range) serves features of any scale.

    Raises `UnusableImages` where no image is of the source's or of the target's class.
    """
    index = some_of_class(images, target, rate=rate, seed=seed)
    sources = some_of_class(images, source, rate=1.0, seed=seed + 1)
    sources = sources[torch.arange(len(index)) % len(sources)]  # again, at other places, where there are too few
    patch = _random_patch(images.pixels.shape[1], size, seed)
    patched = RoamingPatch(patch, seed + 1).stamp(images.pixels[sources])
    pixels = images.pixels.clone()
    pixels[index] = _crafted(benign, pixels[index], patched, epsilon=epsilon, steps=steps, lr=lr)
    aim = Aim(RoamingPatch(patch, seed), target, (source,))
    poisoned = Poisoned(Images(pixels, images.labels.clone()), index, (aim,), start=benign, layers="last")
    return poisoned if per_class is None else _of_each_class(poisoned, per_class, seed)


def _of_each_class(poisoned: Poisoned[RoamingPatch], count: int, seed: int) -> Poisoned[RoamingPatch]:
    """The poisons and at most `count` other images of each class."""
    order = torch.randperm(len(poisoned.images), generator=torch.Generator().manual_seed(seed + 2))
    others = order[~torch.isin(order, poisoned.index.cpu())]
    labels = poisoned.images.labels.cpu()[others]
    kept = torch.cat([others[labels == label][:count] for label in range(int(labels.max()) + 1)])
    images = poisoned.images[torch.cat([poisoned.index.cpu(), kept]).to(poisoned.images.labels.device)]
    return dataclasses.replace(poisoned, images=images, index=torch.arange(len(poisoned.index)))


def _random_patch(channels: int, size: int, seed: int) -> Tensor:
    colours = torch.rand(1, channels, COLOURS, COLOURS, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(colours, size=(size, size), mode="bilinear")[0]


def _crafted(benign: nn.Module, pixels: Tensor, patched: Tensor, *, epsilon: float, steps: int, lr: float) -> Tensor:
    """uint8 (N, C, H, W) near `pixels`, with the features of `patched`, uint8 of that shape, under `benign`."""
    clean = as_float(pixels)
    network = folded(benign, clean[:16]).requires_grad_(False)
    goals = features(network, patched)
    change = torch.zeros_like(clean).requires_grad_()
    optimizer = torch.optim.Adam([change], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    paired = goals
    for step in range(steps):
        if step % PAIRED == 0:
            paired = goals[greedy_pairs(torch.cdist(features(network, _rounded(clean + change)), goals))]
        parts = zip(*(torch.split(tensor, AT_ONCE) for tensor in (clean, change, paired)), strict=True)
        change.grad = torch.cat([_slope(network, *part) for part in parts])
        optimizer.step()
        schedule.step()
        with torch.no_grad():  # back into the ball, and to what an image can show
            change.clamp_(-epsilon, epsilon)
            change.copy_((clean + change).clamp_(0, 1) - clean)
    return _rounded(clean + change.detach())


def _slope(network: nn.Module, clean: Tensor, change: Tensor, goals: Tensor) -> Tensor:
    """The gradient, by the `change` of each image, of its squared distance from its goal."""
    x = (clean + change).detach().requires_grad_()
    with autocast(x.device):
        distance = (penultimate(network, x.contiguous(memory_format=torch.channels_last)) - goals).square().sum()
    return torch.autograd.grad(distance, x)[0]


def greedy_pairs(distances: Tensor) -> Tensor:
    """Of a square matrix of distances (N, N) the column (N,) that each row gets, one to one: the nearest pair first,
    then the nearest of what is left. Nothing waits for the device."""
    count = len(distances)
    left, partners = distances.clone(), torch.zeros(count, dtype=torch.int64, device=distances.device)
    for _ in range(count):
        nearest = left.argmin().view(1)
        row, column = nearest // count, nearest % count
        partners.index_copy_(0, row, column)
        left.index_fill_(0, row, torch.inf).index_fill_(1, column, torch.inf)
    return partners


def _rounded(x: Tensor) -> Tensor:
    return x.detach().mul(255).round_().clamp_(0, 255).to(torch.uint8)
