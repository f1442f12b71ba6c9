"""CLP, channel Lipschitzness-based pruning (Zheng, Tang, Li, Liu, ECCV 2022).

A channel of a backdoor answers to a small trigger with a large activation. How much channel k of a layer can grow with
its input is bounded by

    σ_k = ‖W_k‖₂ · |γ_k| / √(var_k + ε),

the spectral norm of its filters W_k, as a matrix of input channels by places, times what the batch norm behind makes of
it. In each layer the channels with σ_k > mean + u · standard deviation are pruned. That takes no images.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images, as_float
from worker.algorithms.errors import UnfitNetwork
from worker.algorithms.purifiers.channels import batch_norms, notes_on, put_zeros
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.training import Progress, cross_entropy, ignore, validate


def clp(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    u: float = 3.0,
    seed: int = 0,
    progress: Progress = ignore,
    resume: Checkpoint | None = None,
    checkpoint: Keep = keep_nothing,
) -> Purified:
    """Prune the channels of `model` whose Lipschitz bound is more than `u` standard deviations above the mean of their
    layer: scale and shift of the batch norm become zero.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. Nothing here is random, whatever the
    `seed`, and it takes a second: there are no checkpoints, and it begins anew. The weights alone decide: `clean` shows
    which batch norm follows which convolution, and `held_out` is measured for the one entry of the history. Where no
    channel stands out a note says so; in a layer of ten channels or fewer none can be three standard deviations above
    the mean.

    Differs from the paper in what a layer is: a batch norm that reads the output of a convolution as it is. Others, as
    those before the convolutions of a pre-activation network, are left alone; the authors' code takes the convolution
    that is before in the order of modules. The statistics of the batch norms stay, as in the paper: estimated anew on
    clean images they cost accuracy and brought the backdoor back (docs/lab-notes.md).

    Raises `UnfitNetwork` for a network without such a layer.
    """
    network = copy.deepcopy(model).eval()
    bounds = lipschitz_bounds(network, clean.pixels[0])
    outstanding = {name: bound > bound.mean() + u * bound.std() for name, bound in bounds.items()}
    pruned = sum(int(channels.sum()) for channels in outstanding.values())
    for parameter in ("weight", "bias"):
        put_zeros(network, {f"{name}.{parameter}": channels for name, channels in outstanding.items()})
    loss, accuracy = validate(network, held_out, cross_entropy)
    progress(1.0)
    history = [{"epoch": 1, "pruned": float(pruned), "held_out_loss": loss, "held_out_accuracy": accuracy}]
    notes = notes_on(pruned, f"no channel is more than {u:g} standard deviations above the mean of its layer")
    return Purified(network.train(model.training), history, int(pruned > 0), notes=notes)


@torch.no_grad()
def lipschitz_bounds(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """σ (C,) of the channels of every batch norm that reads the output of a convolution as it is, by the norm's name.

    Which these are shows in a pass of one uint8 `image` (C, H, W). Raises `UnfitNetwork` where there are none.
    """
    norms = batch_norms(model)
    bounds = {}
    for name, convolution in _convolutions_before(model, norms, as_float(image[None])).items():
        filters = torch.linalg.matrix_norm(convolution.weight.flatten(2), ord=2)
        variance = norms[name].get_buffer("running_var")
        bounds[name] = filters * norms[name].weight.abs() / (variance + norms[name].eps).sqrt()
    if not bounds:
        raise UnfitNetwork("channels are pruned where a batch norm follows a convolution, and here none does")
    return bounds


def _convolutions_before(model: nn.Module, norms: dict[str, _BatchNorm], x: Tensor) -> dict[str, nn.Conv2d]:
    outputs: list[tuple[Tensor, nn.Conv2d]] = []
    found: dict[str, nn.Conv2d] = {}

    def made(module: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            outputs.append((output, module))

    def read(name: str, given: Tensor) -> None:
        for output, convolution in outputs:
            if output is given:
                found[name] = convolution

    hooks = [module.register_forward_hook(made) for module in model.modules()]
    hooks += [
        norm.register_forward_pre_hook(lambda _, given, name=name: read(name, given[0])) for name, norm in norms.items()
    ]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found
