"""ABS, artificial brain stimulation: a neuron that, driven up, leads every image to one label, and a small trigger that
drives it (Liu, Lee, Tao, Ma, Aafer, Zhang, CCS 2019, "ABS: Scanning Neural Networks for Back-doors by Artificial Brain
Stimulation").

1. Stimulation. Each neuron, a channel of a layer, is set to levels up to far above what images reach, the others left
   as they are. One that raises the same label for most images is a candidate.
2. Reversal. For each candidate c a mask and a pattern are sought that drive it, and not the others, with few pixels:

       max over (m, p) of mean a_c - mean of the others' a - cost · max(0, ‖m‖₁ - pixels),    x' = (1 - m) x + m p

3. The trigger's ASR for the candidate's label (REASR), on images that it was not searched on.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.algorithms.aim import Aim, success
from worker.algorithms.cut import Cut
from worker.algorithms.data import Images, as_float
from worker.algorithms.detectors.every_label import batches, blocks, generator
from worker.algorithms.detectors.memory import inputs_at_once
from worker.algorithms.out_of_memory import halving
from worker.algorithms.taps import PROBED, Tap, find_taps, recording
from worker.algorithms.training import Progress, ignore
from worker.algorithms.triggers import Trigger, blend

REACH = 2.0  # times the highest activation that the images reach anywhere in the layer
WINDOW = 10  # steps between two changes of the costs
FIRST_COST, DEARER = 0.01, 1.5  # of a pixel too many, in units of the layer's activation; how it grows in a window
ROOM = 1.25  # times the pixels allowed: a mask may end a little above them


@dataclass(frozen=True)
class Candidate:
    """A neuron: the `channel` of the tap, the `label` that it raises, for which share of the images (`consistency`),
    and by how much more than the second label (`lead`, in logits). Its `trigger` has the attack success rate `asr` for
    the label on held-out images of others; None where there is no such image."""

    channel: int
    label: int
    consistency: float
    lead: float
    trigger: Trigger
    asr: float | None

    @property
    def pixels(self) -> float:
        """The L1 norm of the trigger's mask."""
        return float(self.trigger.mask.sum())


@dataclass(frozen=True)
class BrainStimulation:
    """`candidates`, those of the largest lead, largest first. `flagged`: the labels of those with a trigger that is
    small and works. `tap`: the layer whose neurons were stimulated."""

    candidates: list[Candidate]
    flagged: list[int]
    tap: Tap


def brain_stimulation(
    model: nn.Module,
    images: Images,
    held_out: Images,
    *,
    tap: Tap | None = None,
    seeds: int = 32,
    levels: int = 8,
    consistency: float = 0.75,
    most: int = 10,
    pixels: float = 16.0,
    asr_threshold: float = 0.88,
    steps: int = 200,
    batch_size: int = 16,
    lr: float = 0.1,
    seed: int = 0,
    at_once: int | None = None,
    progress: Progress = ignore,
) -> BrainStimulation:
    """Stimulate the neurons of a layer on clean `images`, reverse a trigger for the best candidates, and measure each
    on `held_out`.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `tap` is the layer; none: the deepest
    usable one but one, since in the deepest every neuron has a label of its own by the weights of the head. `seeds`
    images, drawn from all since bundles come class by class, are stimulated, at `levels` levels. Candidates are the
    `most` neurons of the largest lead, of those that raise one label for a share `consistency` of the images. `pixels`
    is the size that a trigger may have. A label is flagged at an ASR of `asr_threshold`. `at_once` inputs go through
    the network at a time (none: as many as fit).

    Differs from the paper: one layer, channels as neurons, no pairs of neurons; the cost of size grows until the mask
    is small, and there is no SSIM term, so triggers over the whole image are not looked for. Raises `TooFewTaps` where
    no tap is given and two are not found.
    """
    network = copy.deepcopy(model).eval().requires_grad_(False)
    few = as_float(images.pixels[:PROBED])
    tap = tap or find_taps(network, few).used[-2]
    at_once = at_once or inputs_at_once(network, few[0])
    cut = Cut(network, tap, few[:1])
    chosen = torch.randperm(len(images), generator=generator(seed, 2))[:seeds].to(images.pixels.device)
    stimulated = functools.partial(_elevations, cut, as_float(images.pixels[chosen]), levels)
    elevations, at_once = halving(stimulated, at_once)
    neurons = _neurons(elevations, consistency, most)
    drawn = batches(len(images), steps, batch_size, seed)
    triggers = _reverse([channel for channel, *_ in neurons], cut, images, drawn, pixels, lr, seed, at_once, progress)
    reached = [
        success(network, held_out, Aim(trigger, neuron[1])) for neuron, trigger in zip(neurons, triggers, strict=True)
    ]
    candidates = [
        Candidate(*neuron, trigger, found.asr if found else None)
        for neuron, trigger, found in zip(neurons, triggers, reached, strict=True)
    ]
    working = {each.label for each in candidates if (each.asr or 0) >= asr_threshold and each.pixels <= ROOM * pixels}
    return BrainStimulation(candidates, sorted(working), tap)


@torch.no_grad()
def _elevations(cut: Cut, x: Tensor, levels: int, at_once: int) -> Tensor:
    """By how much each neuron can raise each label's logit for each of the images x (S, C, H, W), above what it is with
    the neuron silent: (neurons, S, labels)."""
    features = cut.features(x)
    top, neurons = REACH * features.amax(), torch.arange(features.shape[cut.channels], device=x.device)
    places = [1] * features.ndim
    places[cut.channels] = len(neurons)
    found: list[Tensor] = []
    for rows, _ in blocks(len(neurons), len(x), max(at_once, len(x))):
        driven = (neurons[rows, None] == neurons).view(-1, *places)  # of each row one neuron
        stimulated = [
            cut.logits(torch.where(driven, top * level / levels, features).flatten(0, 1)).view(len(driven), len(x), -1)
            for level in range(levels + 1)
        ]
        found.append(torch.stack(stimulated[1:]).amax(0) - stimulated[0])
    return torch.cat(found)


def _neurons(elevations: Tensor, consistency: float, most: int) -> list[tuple[int, int, float, float]]:
    """Channel, label, consistency and lead of the candidates, the largest lead first."""
    means = elevations.mean(1)
    best = means.topk(2, dim=1)
    labels, leads = best.indices[:, 0], best.values[:, 0] - best.values[:, 1]
    shares = (elevations.argmax(2) == labels[:, None]).float().mean(1)
    order = leads.argsort(descending=True, stable=True)
    columns = (order, labels[order], shares[order], leads[order])
    neurons = zip(*(column.tolist() for column in columns), strict=True)
    return [neuron for neuron in neurons if neuron[2] >= consistency][:most]


def _reverse(
    channels: list[int],
    cut: Cut,
    images: Images,
    drawn: Tensor,
    pixels: float,
    lr: float,
    seed: int,
    at_once: int,
    progress: Progress,
) -> list[Trigger]:
    """A trigger for each of the neurons, all at once; the host never waits for the device."""
    device, shape = images.pixels.device, images.pixels.shape[1:]
    free = torch.zeros(len(channels), 1 + shape[0], *shape[1:])
    free[:, 1:] = torch.randn(free[:, 1:].shape, generator=generator(seed, 1))
    free = free.to(device).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=lr, betas=(0.5, 0.9))
    neurons, cost = torch.tensor(channels, device=device), torch.full((len(channels),), FIRST_COST, device=device)
    for number, batch in enumerate(drawn.to(device), start=1):
        values = torch.tanh(free) / 2 + 0.5
        step = functools.partial(_slopes, cut, values.detach(), neurons, as_float(images.pixels[batch]))
        slope, at_once = halving(step, at_once)
        above = values.detach()[:, 0].sum((1, 2)) > pixels
        slope[:, 0] += (cost * above)[:, None, None]
        optimizer.zero_grad()
        values.backward(slope)  # type: ignore[no-untyped-call]
        optimizer.step()
        if number % WINDOW == 0:
            cost = torch.where(above, DEARER * cost, cost)
            progress(number / len(drawn))
    values = (torch.tanh(free) / 2 + 0.5).detach()
    return [Trigger(value[:1], value[1:]) for value in values]


def _slopes(cut: Cut, values: Tensor, neurons: Tensor, x: Tensor, at_once: int) -> Tensor:
    """The gradient, by each neuron's mask and pattern (J, 1 + C, H, W), of the mean activation of the others less its
    own, in units of the layer's mean activation."""
    slopes = torch.zeros_like(values)
    for rows, columns in blocks(len(neurons), len(x), at_once):
        block, part = values[rows].requires_grad_(), x[columns]
        with recording(cut.model, [cut.tap]) as maps:
            cut.model(blend(part, block[:, None, :1], block[:, None, 1:]).flatten(0, 1))
        activations = maps[cut.tap.name].float().mean((2, 3)).view(len(block), len(part), -1)
        own = activations.gather(2, neurons[rows, None, None].expand(-1, len(part), 1))[:, :, 0]
        others = (activations.sum(2) - own) / max(1, activations.shape[2] - 1)
        scale = activations.detach().abs().mean().clamp(min=torch.finfo(torch.float32).tiny)
        slopes[rows] += torch.autograd.grad(((others - own) / scale).sum() / len(x), block)[0]
    return slopes
