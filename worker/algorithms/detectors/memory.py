"""How many images may go through a network at a time, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worker.algorithms.precision import autocast

MOST_PIXELS = {"cuda": 2**23, "cpu": 2**18}  # of all images at a time; more brings no more speed
CPU_ROOM = 2**31  # bytes
BACKWARD = 2  # the memory of a backward pass, in units of what the forward pass keeps for it


def inputs_at_once(model: nn.Module, image: Tensor) -> int:
    """As many images of the shape of `image` (C, H, W) as run fast, halved until they fit into memory; at least one.

    Fit means: half of what is free on a GPU, 2 GiB on a CPU. What one image takes is what autograd keeps of its
    forward pass, counted by running it, since networks differ too much for a rule from pixels alone (a hundredfold
    between LeNet and DenseNet). Halving keeps the number, and with it the rounding of sums, the same from run
    to run on machines that are not nearly full.
    """
    at_once = max(1, MOST_PIXELS.get(image.device.type, MOST_PIXELS["cpu"]) // image[0].numel())
    each, room = BACKWARD * bytes_kept(model, image), _room(image.device)
    while at_once > 1 and at_once * each > room:
        at_once //= 2
    return at_once


def bytes_kept(model: nn.Module, image: Tensor) -> int:
    """The bytes that autograd keeps for the backward pass of one image more, without those it keeps in any case."""
    one, two = (_bytes_of_batch(model, image.expand(count, -1, -1, -1)) for count in (1, 2))
    return max(two - one, image.nbytes)


def _bytes_of_batch(model: nn.Module, x: Tensor) -> int:
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(x.device):
        model(x)
    return sum(kept.values())


def _room(device: torch.device) -> int:
    if device.type != "cuda":
        return CPU_ROOM
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (free + unused) // 2
