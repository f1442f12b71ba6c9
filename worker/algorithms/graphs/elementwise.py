"""The operators that work value by value, on constants and in a running network alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor


def _divide(one: Tensor, other: Tensor) -> Tensor:
    if one.is_floating_point():
        return one / other
    if not other.all():
        raise ValueError("a division by zero")
    return torch.div(one, other, rounding_mode="trunc")


def _remainder(one: Tensor, other: Tensor) -> Tensor:
    if not one.is_floating_point() and not other.all():
        raise ValueError("a division by zero")
    return torch.remainder(one, other)


def _maximum(*inputs: Tensor) -> Tensor:
    return reduce(torch.maximum, inputs)


def _minimum(*inputs: Tensor) -> Tensor:
    return reduce(torch.minimum, inputs)


def _sum(*inputs: Tensor) -> Tensor:
    return reduce(torch.add, inputs)


ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "Ceil": torch.ceil,
    "Div": _divide,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "Max": _maximum,
    "Min": _minimum,
    "Mod": _remainder,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "Sign": torch.sign,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Sum": _sum,
    "Where": torch.where,
}
