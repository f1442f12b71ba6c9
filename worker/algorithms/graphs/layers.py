"""Operators with weights, as PyTorch's own layers: what purifiers look for, and what training changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from worker.algorithms.graphs.arguments import integer, number
from worker.algorithms.graphs.errors import UnfitGraph, UnsupportedOperator
from worker.algorithms.graphs.graph import Node
from worker.algorithms.graphs.values import Held, Known, Layer, Running, Value, settled
from worker.algorithms.graphs.windows import window

Inputs = Sequence[Value | None]

ONLY_INPUT = (0,)


def convolution(node: Node, inputs: Inputs) -> Layer:
    data, weight, bias = _running(node, inputs), _weight(node, inputs, 1), _weight(node, inputs, 2)
    if data.at[0].ndim != 4 or weight is None or weight.ndim != 4:
        raise UnsupportedOperator(f"{node}: only convolutions of images with weights of the file are supported")
    found = window(node, data.shape, list(weight.shape[2:]))
    groups = integer(node, "group", 1)
    if groups < 1 or weight.shape[0] % groups or weight.shape[1] * groups != data.shape[1]:
        raise UnfitGraph(f"{node}: weights {tuple(weight.shape)} in {groups} groups, for {data.shape[1]} channels")
    module = nn.Conv2d(
        data.shape[1],
        weight.shape[0],
        found.kernel,
        found.stride,
        found.symmetric or 0,
        found.dilation,
        groups,
        bias is not None,
        device="meta",
    )
    held = _hold(node, module, inputs, {"weight": 1, "bias": 2})
    if found.symmetric is not None:
        return Layer(module, ONLY_INPUT, held)
    padded = nn.Sequential(nn.ZeroPad2d(found.around), module)
    return Layer(padded, ONLY_INPUT, tuple(_moved(each, "1.") for each in held))


def linear(node: Node, inputs: Inputs) -> Layer:
    """Gemm: the weights may be either way round, PyTorch's are (out, in)."""
    weight, bias = _weight(node, inputs, 1), _weight(node, inputs, 2)
    plain = number(node, "alpha", 1.0) == number(node, "beta", 1.0) == 1.0 and integer(node, "transA", 0) == 0
    if not plain or weight is None or weight.ndim != 2 or (bias is not None and bias.ndim != 1):
        raise UnsupportedOperator(f"{node}: only x·W + b with weights of the file is supported")
    return _linear(node, inputs, transposed=not integer(node, "transB", 0), has_bias=bias is not None)


def matrix_product(node: Node, inputs: Inputs) -> Layer:
    return _linear(node, inputs, transposed=True, has_bias=False)


def is_matrix_of_weights(inputs: Inputs) -> bool:
    """Whether the second input of a MatMul is a layer's weights, and the first what they are applied to."""
    return (
        len(inputs) == 2
        and isinstance(inputs[0], Running)
        and isinstance(inputs[1], Known)
        and inputs[1].tensor is not None
        and inputs[1].at[0].ndim == 2
    )


def _linear(node: Node, inputs: Inputs, *, transposed: bool, has_bias: bool) -> Layer:
    weight = _weight(node, inputs, 1)
    assert weight is not None  # noqa: S101 - the callers have looked
    wide, narrow = weight.shape if transposed else reversed(weight.shape)
    module = nn.Linear(wide, narrow, has_bias, device="meta")
    held = _hold(node, module, inputs, {"weight": 1, "bias": 2} if has_bias else {"weight": 1}, transposed=transposed)
    return Layer(module, ONLY_INPUT, held)


def with_bias(layer: nn.Linear, node: Node, value: Known, position: int) -> Held | None:
    """Take the constant that `node`, an Add, adds to the layer's output as its bias; None where it is no bias."""
    bias = value.at[0]
    if value.tensor is None or layer.bias is not None or bias.shape != (layer.out_features,):
        return None
    layer.bias = nn.Parameter(_numbers(node, bias))
    return Held("bias", value.tensor, position, value.permutation)


def batch_norm(node: Node, inputs: Inputs) -> Layer:
    data = _running(node, inputs)
    if integer(node, "training_mode", 0) or len([name for name in node.outputs if name]) > 1:
        raise UnsupportedOperator(
            f"{node} is in training mode",
            "Export in evaluation mode: network.eval(), and torch.onnx.export without TrainingMode.TRAINING.",
        )
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}.get(data.at[0].ndim)
    if kind is None:
        raise UnsupportedOperator(f"{node}: an input of {data.at[0].ndim} axes")
    momentum = min(max(1 - number(node, "momentum", 0.9), 0.0), 1.0)  # ONNX names what stays, PyTorch what is new
    module = kind(data.shape[1], _positive(node, "epsilon", 1e-5), momentum, device="meta")
    module.num_batches_tracked = torch.tensor(0)
    names = {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4}
    return Layer(module, ONLY_INPUT, _hold(node, module, inputs, names))


def layer_norm(node: Node, inputs: Inputs) -> Layer:
    data, weight = _running(node, inputs), _weight(node, inputs, 1)
    axis = integer(node, "axis", -1)
    shape = list(data.shape[axis:])
    if weight is None or list(weight.shape) != shape or not shape or axis % data.at[0].ndim == 0:
        raise UnsupportedOperator(f"{node}: only normalisation of the last axes with weights of the same shape")
    has_bias = _weight(node, inputs, 2) is not None
    module = nn.LayerNorm(shape, _positive(node, "epsilon", 1e-5), bias=has_bias, device="meta")
    return Layer(module, ONLY_INPUT, _hold(node, module, inputs, {"weight": 1, "bias": 2}))


def group_norm(node: Node, inputs: Inputs) -> Layer:
    """With weights a channel, as it is from version 21 on."""
    data, weight = _running(node, inputs), _weight(node, inputs, 1)
    groups = data.shape[1] if node.op == "InstanceNormalization" else integer(node, "num_groups", 1)
    if weight is None or weight.shape != (data.shape[1],) or groups < 1 or data.shape[1] % groups:
        raise UnsupportedOperator(f"{node}: only normalisation of channels in groups with weights a channel")
    module = nn.GroupNorm(groups, data.shape[1], _positive(node, "epsilon", 1e-5), device="meta")
    return Layer(module, ONLY_INPUT, _hold(node, module, inputs, {"weight": 1, "bias": 2}))


def prelu(node: Node, inputs: Inputs) -> Layer:
    slope = _weight(node, inputs, 1)
    if slope is None:
        raise UnsupportedOperator(f"{node}: only slopes of the file are supported")
    module = Slope(slope.shape)
    return Layer(module, ONLY_INPUT, _hold(node, module, inputs, {"slope": 1}))


class Slope(nn.Module):
    """PRelu: its slopes broadcast against the input, as ONNX has it."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.empty(shape, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x < 0, x * self.slope, x)


LAYERS: dict[str, Callable[[Node, Inputs], Layer]] = {
    "BatchNormalization": batch_norm,
    "Conv": convolution,
    "Gemm": linear,
    "GroupNormalization": group_norm,
    "InstanceNormalization": group_norm,
    "LayerNormalization": layer_norm,
    "PRelu": prelu,
}


def _running(node: Node, inputs: Inputs) -> Running:
    if not inputs or not isinstance(inputs[0], Running) or inputs[0].at[0].ndim < 2:
        raise UnsupportedOperator(f"{node} does not work on the images")
    return inputs[0]


def _weight(node: Node, inputs: Inputs, position: int) -> Tensor | None:
    value = inputs[position] if position < len(inputs) else None
    if value is None:
        return None
    if not isinstance(value, Known) or value.tensor is None:
        raise UnsupportedOperator(
            f"{node}: input {position} is computed in the graph; only weights of the file can be trained"
        )
    return settled(node, value)


def _hold(
    node: Node, module: nn.Module, inputs: Inputs, names: dict[str, int], *, transposed: bool = False
) -> tuple[Held, ...]:
    """Put the file's tensors in the module's places, and say which is which."""
    held = []
    for name, position in names.items():
        tensor, value = _weight(node, inputs, position), inputs[position] if position < len(inputs) else None
        if tensor is None or not isinstance(value, Known) or value.tensor is None:
            if getattr(module, name) is None:
                continue
            raise UnfitGraph(f"{node}: its {name} is missing")
        turned = transposed and tensor.ndim == 2
        tensor = _numbers(node, tensor.T if turned else tensor)
        if tensor.shape != getattr(module, name).shape:
            raise UnfitGraph(
                f"{node}: its {name} is {tuple(tensor.shape)} instead of {tuple(getattr(module, name).shape)}"
            )
        is_buffer = name in dict(module.named_buffers(recurse=False))
        setattr(module, name, tensor if is_buffer else nn.Parameter(tensor))
        order = value.permutation
        if turned:
            order = (1, 0) if order is None else (order[1], order[0])
        held.append(Held(name, value.tensor, position, None if order == (0, 1) else order))
    return tuple(held)


def _numbers(node: Node, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        raise UnsupportedOperator(f"{node}: weights of {str(tensor.dtype).removeprefix('torch.')}, not float32")
    return tensor.clone(memory_format=torch.contiguous_format)


def _moved(held: Held, prefix: str) -> Held:
    return Held(prefix + held.name, held.tensor, held.position, held.permutation)


def _positive(node: Node, name: str, default: float) -> float:
    value = number(node, name, default)
    if value <= 0:
        raise UnfitGraph(f"{node}: the attribute {name} is {value}")
    return value
