"""The last convolutional stage of a network: its channels as the classifier reads them, how active they are, and the
network's logits without some of them.

A channel is taken away where it is read, by zeros in the weights of the classifier's first layer. In a plain network
that is the same as zeros where it is made. In a residual one zeros in the last block would take away what this block
adds to the channel, and leave what the shortcut brings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.algorithms.data import as_float
from worker.algorithms.errors import UnfitNetwork
from worker.algorithms.metrics import logits
from worker.algorithms.purifiers.channels import Zeros
from worker.algorithms.trace import Call, has_weights, trace


@dataclass(frozen=True)
class LastStage:
    """`reader` is the name of the first layer of the classifier. It gets `channels` of the stage, each as `positions`
    features in a row, or, where it is a convolution, as a map (`positions` is 0)."""

    reader: str
    channels: int
    positions: int

    def spread(self, gone: Tensor) -> Tensor:
        """Channels (C,) as they lie in the reader's inputs, and in its weights alike."""
        return gone.repeat_interleave(self.positions) if self.positions else gone[:, None, None]

    def zeros(self, gone: Tensor) -> Zeros:
        """Those that take away the channels where `gone`, bool (C,), is true."""
        return {f"{self.reader}.weight": self.spread(gone)}


def find_last_stage(model: nn.Module, images: Tensor) -> LastStage:
    """The last stage of `model` as the classifier reads it: the last layer with weights, or the linear layers in a row
    that end with it.

    `images` are a few inputs (N, C, H, W), float in [0, 1]; the pass is in the model's mode. The stage of a transformer
    is its last block. Raises `UnfitNetwork` where no map comes before the classifier.
    """
    calls = list(trace(model, images).walk())
    layers = [at for at, call in enumerate(calls) if has_weights(call.module)]
    while len(layers) > 1 and _is_in_a_row(calls[layers[-2]]):
        layers.pop()
    maps = [call.tap for call in calls[: layers[-1]] if call.tap] if layers else []
    if not maps:
        raise UnfitNetwork("channels of the last convolution are to be pruned, and there is none before the classifier")
    reader, last = calls[layers[-1]], maps[-1]
    read = model.get_parameter(f"{reader.name}.weight").shape[1]
    if isinstance(reader.module, nn.Conv2d):
        return LastStage(reader.name, read, 0)
    positions = last.height * last.width if read == last.channels * last.height * last.width else 1
    return LastStage(reader.name, read // positions, positions)


def _is_in_a_row(call: Call) -> bool:
    """Whether the layer is a linear one on features that are no map any more."""
    return isinstance(call.module, nn.Linear) and call.tap is None


def features_of(model: nn.Module, stage: LastStage, pixels: Tensor) -> Tensor:
    """What the reader of the stage gets of uint8 images (N, C, H, W): float (N, features) or (N, channels, h, w)."""
    given: list[Tensor] = []
    hook = model.get_submodule(stage.reader).register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    try:
        logits(model, pixels)
    finally:
        hook.remove()
    return torch.cat(given)


def activity(stage: LastStage, features: Tensor) -> Tensor:
    """Mean absolute value (C,) of each channel over images and positions: behind a ReLU, its mean activation."""
    return features.abs().mean(0).reshape(stage.channels, -1).mean(1)


@torch.no_grad()
def logits_without(model: nn.Module, stage: LastStage, features: Tensor, gone: Tensor, image: Tensor) -> Tensor:
    """float32 logits (N, K) of the images that `features` are of, without the channels where `gone` (C,) is true.

    The network before the reader runs on one uint8 `image` (C, H, W), no matter which: behind it, the reader is given
    the features instead. So this costs the classifier, whatever the network.
    """
    reader, masked = model.get_submodule(stage.reader), features.masked_fill(stage.spread(gone), 0)
    hook = reader.register_forward_pre_hook(lambda *_: masked)
    try:
        found: Tensor = model(as_float(image[None]))
    finally:
        hook.remove()
    return found.float()
