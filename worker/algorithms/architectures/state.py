"""Somebody else's weights in a network of ours: what their shapes tell, whether they fit, and back again.

A state dict is a claim. Before anything of the claimed size is allocated, the network is outlined without its numbers
and compared with the shapes that came; the numbers come after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from worker.algorithms.architectures.catalogue import LIMITS, build, options_of
from worker.algorithms.errors import Diverged, UnknownArchitecture, WeightsMismatch

Shapes = Mapping[str, tuple[int, ...]]

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before every key."""

COUNTER = "num_batches_tracked"
"""BatchNorm's. Files from before PyTorch 0.4.1 have none, and a fixed momentum does not need it."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Two values each, to see which dimensions of which weights move with it.
PROBES = {"num_classes": (7, 11), "in_channels": (3, 1), "width": (16, 24)}
UNITS = {"num_classes": "classes", "in_channels": "input channels", "width": "channels in the first stage"}


@dataclass(frozen=True)
class Loaded:
    """A network with the weights of a file in it, float32 on the CPU, and what is needed to write such a file again.

    `dtypes` has the file's keys in the file's order, without `prefix`.
    """

    network: nn.Module
    prefix: str
    num_classes: int
    in_channels: int
    options: dict[str, Any]
    dtypes: dict[str, torch.dtype]


def infer(name: str, shapes: Shapes, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the shapes of a state dict (keys without prefix) tell: `num_classes`, `in_channels`, and options.

    The network is outlined with two values of each. Where a dimension moves with the value, the same dimension in
    `shapes` tells the value that was used; so no head needs to be known by name. What no shape tells is left out.
    Raises `UnknownArchitecture`, and `WeightsMismatch` for a value beyond what can be served.
    """
    allowed = {**LIMITS, **options_of(name)}
    told: dict[str, Any] = {}
    if "aux_logits" in allowed:
        told["aux_logits"] = any(key.lower().startswith("aux") for key in shapes)
    base = {**{what: PROBES[what][0] for what in allowed if what in PROBES}, **(options or {}), **told}
    if "width" in base:
        base["width"] = PROBES["width"][0]
    outline = _outline(name, base)
    for what in [probed for probed in PROBES if probed in base]:
        first, second = PROBES[what]
        try:
            moved = _outline(name, {**base, what: second})
        except UnknownArchitecture:  # a network that cannot vary in this: its shapes are checked as they are
            continue
        value = next(_values(outline, moved, shapes, first, second), None)
        if value is None:
            continue
        if value not in allowed[what]:
            raise WeightsMismatch(f"the weights have {value} {UNITS[what]}, which {name} cannot have")
        told[what] = value
    return told


def load(
    name: str,
    num_classes: int | None,
    in_channels: int | None,
    options: Mapping[str, Any],
    state: Mapping[str, Tensor],
) -> Loaded:
    """Build the network that `state` was saved from, and put the weights in. Nothing of `state` is changed.

    What the shapes tell may be None or left out of `options`, and is checked where it is given. A wrapper's prefix on
    all keys is taken off and remembered. Half-precision weights are computed with in float32.

    Raises `UnknownArchitecture`, and `WeightsMismatch` for missing, unexpected or misshapen weights, numbers that are
    not finite or not floating point, or a value given that the shapes contradict.
    """
    prefix = _prefix(state)
    weights = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    given = {"num_classes": num_classes, "in_channels": in_channels, **options}
    given = {what: value for what, value in given.items() if value is not None}
    _outline(name, {"num_classes": 7, "in_channels": 3, **given})  # refuses what is given and wrong in itself
    told = infer(name, shapes, options)
    for what in told:
        if what in given and told[what] != given[what]:
            raise WeightsMismatch(_contradiction(what, told[what], given[what]))
    chosen = {"num_classes": PROBES["num_classes"][0], "in_channels": PROBES["in_channels"][0], **given, **told}
    _check_shapes(_outline(name, chosen), shapes)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and overwritten
        network = _build(name, chosen)
    _check_numbers(weights, network.state_dict())
    network.load_state_dict(weights, strict=True)
    remaining = {what: value for what, value in chosen.items() if what not in LIMITS}
    dtypes = {key: tensor.dtype for key, tensor in weights.items()}
    return Loaded(network, prefix, chosen["num_classes"], chosen["in_channels"], remaining, dtypes)


def dump(loaded: Loaded, network: nn.Module) -> dict[str, Tensor]:
    """The weights of `network`, a descendant of `loaded.network`, as the file had them: the same keys in the same
    order, the same shapes and dtypes; contiguous, on the CPU, sharing no memory with the network.

    Raises `Diverged` where a number is not finite, or not in the file's number format.
    """
    state = network.state_dict()
    out = {}
    for key, dtype in loaded.dtypes.items():
        tensor = state[key].detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
        if not torch.isfinite(tensor).all():
            raise Diverged(f"{key} has values that are not finite in {_short(dtype)}")
        out[loaded.prefix + key] = tensor
    return out


class _WithoutNumbers(TorchFunctionMode):
    """Weights are made on the meta device: shapes, and no memory.

    Not `torch.device("meta")`: constructors that compute with small tensors (RegNet's widths, Swin's position
    indices) need those to have values.
    """

    makers = (torch.empty, torch.full, torch.ones, torch.randn, torch.zeros)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.makers and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def _outline(name: str, chosen: Mapping[str, Any]) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]), _WithoutNumbers():
        return _build(name, chosen).state_dict()


def _build(name: str, chosen: Mapping[str, Any]) -> nn.Module:
    options = {what: value for what, value in chosen.items() if what not in LIMITS}
    return build(name, num_classes=chosen["num_classes"], in_channels=chosen["in_channels"], options=options)


def _values(
    outline: Mapping[str, Tensor], moved: Mapping[str, Tensor], shapes: Shapes, first: int, second: int
) -> Iterator[int]:
    """The value that each moving dimension tells, given that it moves in proportion."""
    for key, shape in shapes.items():
        if key not in outline or key not in moved or len(shape) != outline[key].ndim:
            continue
        for size, at_first, at_second in zip(shape, outline[key].shape, moved[key].shape, strict=True):
            if at_first != at_second:
                steps, rest = divmod((size - at_first) * (second - first), at_second - at_first)
                if rest == 0:
                    yield first + steps


def _prefix(state: Mapping[str, Tensor]) -> str:
    found = ""
    while state:
        longer = next((found + more for more in PREFIXES if all(key.startswith(found + more) for key in state)), None)
        if longer is None:
            break
        found = longer
    return found


def _contradiction(what: str, told: Any, given: Any) -> str:
    if what in UNITS:
        return f"the weights have {told} {UNITS[what]}, {given} were given"
    return f"the weights say {what} {told}, {given} was given"


def _check_shapes(outline: Mapping[str, Tensor], shapes: Shapes) -> None:
    missing = [key for key in outline if key not in shapes and not key.endswith(COUNTER)]
    unexpected = [key for key in shapes if key not in outline]
    misshapen = [
        f"{key} is {shape} instead of {tuple(outline[key].shape)}"
        for key, shape in shapes.items()
        if key in outline and shape != outline[key].shape
    ]
    complaints = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if any(complaints.values()):
        listed = "; ".join(f"{len(some)} {what}: {_few(some)}" for what, some in complaints.items() if some)
        raise WeightsMismatch(f"the weights do not fit the network: {listed}")


def _check_numbers(weights: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> None:
    for key, tensor in weights.items():
        if fresh[key].is_floating_point():
            if tensor.dtype not in FLOATS:
                raise WeightsMismatch(f"{key} is {_short(tensor.dtype)}; expected {' or '.join(map(_short, FLOATS))}")
            if not torch.isfinite(tensor.float()).all():
                raise WeightsMismatch(
                    f"{key} holds numbers that are not finite in float32",
                    "The network was saved after its training diverged, or the file is damaged.",
                )
        # Tables of indices follow from the architecture. A foreign one could point outside of what it indexes.
        elif tensor.dtype != fresh[key].dtype or not (key.endswith(COUNTER) or torch.equal(tensor, fresh[key])):
            raise WeightsMismatch(f"{key} is not the table of {_short(fresh[key].dtype)} that belongs to the network")


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(name[:120] for name in names[:most]) + (", …" if len(names) > most else "")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
