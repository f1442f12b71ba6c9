"""Batch norms: their running statistics, estimated anew where weights before them have changed."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from worker.algorithms.data import Images, as_float


@torch.no_grad()
def reestimate(model: nn.Module, images: Images, *, batch_size: int = 256) -> None:
    """Set the running mean and variance of every batch norm of `model`, in place, to those of `images`.

    One pass over the images as they are, without augmentation, in batches of nearly equal size; a statistic is the
    average of its values in the batches, weighted by their images. Old statistics count for nothing. Weights stay, and
    everything but batch norms, dropout for one, runs in evaluation mode; modes and momenta are put back. A network
    without batch norms is left as it is. The images must be on the model's device, which the host does not wait for.

    Training leaves a moving average of the last batches instead, of whatever weights these had: after a change of the
    weights that no training follows (pruning, a blend of two networks) it belongs to another network (Izmailov et al.,
    UAI 2018, "Averaging weights leads to wider optima", section 3.2).
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    seen = 0
    try:
        for part in images.pixels.tensor_split(math.ceil(len(images) / batch_size)):
            seen += len(part)
            for norm in norms:
                norm.momentum = len(part) / seen  # with None torch averages too, and reads its counter from the device
            model(as_float(part).contiguous(memory_format=torch.channels_last))
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm in norms:
            norm.momentum = momenta[norm]
