"""Batch norms folded into the convolutions before them: the same function, without a pass over memory for each."""

from __future__ import annotations

import copy
import logging
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TRIED = 16  # images, enough to show whether the folded network is the same
TOLERANCE = 1e-3  # of the largest logit; folding only rounds otherwise


def folded(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy of `model` in evaluation mode and in channels-last layout, its batch norms folded into convolutions where
    torch.fx can trace it.

    What cannot be traced, or gives other logits for the images `x` (N, C, H, W) then, is copied as it is. For work that
    needs gradients by the input alone.
    """
    plain = copy.deepcopy(model).eval()
    try:
        network: nn.Module = _fold(fx.symbolic_trace(plain))
        same = _same(plain, network, x)
    except Exception as error:  # an architecture can break tracing in any way it likes, and may
        logging.getLogger(__name__).info("batch norms not folded: %r", error)
        same = False
    return (network if same else plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _fold(traced: fx.GraphModule) -> fx.GraphModule:
    """Every batch norm that is all that reads a convolution, where either is called once."""
    modules = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        norm, convolution = modules[str(node.target)], modules[str(before.target)]
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(convolution, nn.Conv2d):
            continue
        if norm.track_running_stats and len(before.users) == calls[node.target] == calls[before.target] == 1:
            traced.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


@torch.no_grad()
def _same(one: nn.Module, other: nn.Module, x: Tensor) -> bool:
    expected, found = one(x), other(x)
    return bool((expected - found).abs().max() <= TOLERANCE * expected.abs().max())
