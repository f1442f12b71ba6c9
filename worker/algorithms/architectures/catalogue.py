"""A network by name: the paper's small-image networks, torchvision's and timm's. Never pretrained, never user code."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torchvision
from torch import Tensor, nn

from worker.algorithms.architectures.lenet5 import lenet5
from worker.algorithms.architectures.small_densenet import densenet121
from worker.algorithms.architectures.small_resnet import resnet18, resnet50
from worker.algorithms.architectures.small_shufflenet import shufflenet_v2
from worker.algorithms.architectures.small_squeezenet import squeezenet
from worker.algorithms.errors import UnknownArchitecture

PAPER: dict[str, Callable[..., nn.Module]] = {
    "densenet121": densenet121,
    "lenet5": lenet5,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "shufflenet_v2": shufflenet_v2,
    "squeezenet": squeezenet,
}

# What an option may be. Everything else is refused: timm alone has a dozen that open a path or a connection.
SIZES = range(16, 1025)
OPTIONS: dict[str, Mapping[str, Sequence[Any]]] = {
    "paper": {"width": range(1, 1025)},
    "torchvision": {"image_size": SIZES, "aux_logits": (False, True), "transform_input": (False, True)},
    "timm": {"img_size": SIZES, "global_pool": ("avg", "avgmax", "catavgmax", "map", "max", "token")},
}
LIMITS: dict[str, range] = {"num_classes": range(2, 100_001), "in_channels": range(1, 4, 2)}


def build(name: str, *, num_classes: int, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    """A freshly initialised network, (N, C, H, W) to logits (N, K).

    `name` is `paper/…`, `torchvision/…` or `timm/…`; `in_channels` is 1 or 3, and `num_classes` 2 to 100,000. Raises
    `UnknownArchitecture` for a name, an option or a value that there is none of.
    """
    family, _, network = name.partition("/")
    checked = options_of(name)
    for option, value in {"num_classes": num_classes, "in_channels": in_channels, **options}.items():
        allowed = {**LIMITS, **checked}.get(option)
        if allowed is None:
            raise UnknownArchitecture(f"{name} has no option {option!r}; it has {_listed(checked)}")
        if type(value) is not type(allowed[0]) or value not in allowed:
            raise UnknownArchitecture(f"{name}: {option} must be {_one_of(allowed)}, got {value!r}")
    try:
        return {"paper": _paper, "torchvision": _torchvision, "timm": _timm}[family](
            network, num_classes, in_channels, dict(options)
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:  # how others refuse
        raise UnknownArchitecture(f"{name} cannot be built with {dict(options)}: {error}") from error


def options_of(name: str) -> dict[str, Sequence[Any]]:
    """The options that a network has, and the values each may take. Raises `UnknownArchitecture`."""
    family, _, network = name.partition("/")
    if family not in OPTIONS:
        raise UnknownArchitecture(f"no network {name!r}: a name begins with paper/, torchvision/ or timm/")
    known = _names(family)
    if network not in known:
        close = difflib.get_close_matches(network.partition(".")[0], known, n=3)
        meant = f"; did you mean {' or '.join(f'{family}/{match}' for match in close)}?" if close else ""
        raise UnknownArchitecture(f"no network {name!r}{meant}")
    if family == "timm":
        return dict(OPTIONS[family])
    builder = PAPER[network] if family == "paper" else _torchvision_class(network)
    parameters = inspect.signature(builder).parameters
    return {option: values for option, values in OPTIONS[family].items() if option in parameters}


def _names(family: str) -> list[str]:
    if family == "paper":
        return list(PAPER)
    if family == "torchvision":
        return torchvision.models.list_models(module=torchvision.models)  # type: ignore[no-any-return]
    return _import_timm().list_models()  # type: ignore[no-any-return]


def _paper(network: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    return PAPER[network](num_classes, in_channels, **options)


def _torchvision(network: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    if "init_weights" in inspect.signature(_torchvision_class(network)).parameters:
        options["init_weights"] = False  # minutes of truncated normals in Inception, and a warning where it is not said
    if options.get("transform_input") and in_channels != 3:
        raise ValueError("transform_input needs 3 input channels")
    model: nn.Module = torchvision.models.get_model(network, weights=None, num_classes=num_classes, **options)
    model.register_forward_hook(_main_logits)
    if in_channels != 3:
        _replace_first_convolution(model, in_channels)
    return model


def _torchvision_class(network: str) -> Callable[..., nn.Module]:
    """The class that a builder of torchvision returns: its constructor tells the options, the builder's does not."""
    builder = torchvision.models.get_model_builder(network)
    found: Callable[..., nn.Module] = inspect.get_annotations(inspect.unwrap(builder), eval_str=True)["return"]
    return found


def _main_logits(_module: nn.Module, _inputs: object, output: Any) -> Tensor:
    """GoogLeNet and Inception return their auxiliary logits as well while they train."""
    logits: Tensor = output[0] if isinstance(output, tuple) else output
    return logits


def _replace_first_convolution(model: nn.Module, in_channels: int) -> None:
    name, old = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    model.set_submodule(name, new)


def _timm(network: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    model: nn.Module = _import_timm().create_model(
        network, pretrained=False, num_classes=num_classes, in_chans=in_channels, **options
    )
    return model


def _import_timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UnknownArchitecture("timm is not installed on this server", "Install timm beside the worker.") from None
    return timm


def _listed(options: Mapping[str, object]) -> str:
    return ", ".join(options) or "none"


def _one_of(allowed: Sequence[Any]) -> str:
    if isinstance(allowed, range) and allowed.step == 1:
        return f"a whole number from {allowed[0]} to {allowed[-1]}"
    return " or ".join(str(value) for value in allowed)
