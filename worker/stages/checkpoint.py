"""A PyTorch checkpoint to a file of tensors. Runs in the child of `worker/stages/sandbox.py`: it unpickles, with
torch's own list of what may be called, and a child can do little harm even where that list has a hole."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from picklescan.scanner import SafetyLevel, scan_pickle_bytes
from safetensors.torch import save
from torch import Tensor, nn
from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]  # it lists no names

from worker.stages.errors import Refused
from worker.stages.kind import CONVERTED
from worker.stages.tensor_file import BYTES

NESTS = ("state_dict", "model")
"""Under what a training script puts the state dict beside its epoch and its optimizer."""

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
SHARED = 2  # times the bytes of the storages that the tensors may have together: tied weights, and no bombs
FINDINGS = 20

torch.set_num_threads(1)
warnings.simplefilter("ignore")  # what torch warns of is of the uploaded file, and to say it source files are read
logging.getLogger("picklescan").setLevel(logging.CRITICAL)


def convert(source: Path, out: Path) -> dict[str, Any]:
    """Write the state dict of a checkpoint (checked by `kind.check_checkpoint`) to `CONVERTED` in `out`. Gives under
    which key it was found, and what picklescan says.

    Raises `Refused` for what is no plain state dict.
    """
    scan = _scan(source)
    _check_globals(source)
    try:
        with source.open("rb") as file:  # of a path, torch looks at the extension
            loaded = torch.load(file, weights_only=True, mmap=False, map_location="cpu")
    except UnpicklingError as error:
        raise Refused("checkpoint_forbidden_global", "its pickle calls what a state dict has no use for") from error
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, EOFError) as error:
        if "can't allocate memory" in str(error):
            raise
        raise Refused("checkpoint_damaged", f"torch cannot read it: {type(error).__name__}") from error
    state, nest = _state_dict(loaded)
    for name, tensor in state.items():
        _check_tensor(name, tensor)
    _check_shared(state)
    copies = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    (out / CONVERTED).write_bytes(save(copies))  # `save_file` makes system calls that are not on the list
    return {"nest": nest, "scan": scan}


def _scan(source: Path) -> list[dict[str, str]]:
    """Evidence for the reader of the report; what is let through, torch's list decides."""
    result = scan_pickle_bytes(io.BytesIO(_pickle(source)), "data.pkl")
    found = [each for each in result.globals if each.safety != SafetyLevel.Innocuous]
    return [{"name": f"{each.module}.{each.name}"[:200], "safety": each.safety.value} for each in found[:FINDINGS]]


def _pickle(source: Path) -> bytes:
    return bytes(torch._C.PyTorchFileReader(str(source)).get_record("data.pkl"))


def _check_globals(source: Path) -> None:
    """Name what is not on torch's list, without running anything."""
    try:
        unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(source))
    except Exception as error:
        raise Refused("checkpoint_damaged", f"its pickle cannot be followed: {type(error).__name__}") from error
    if not unsafe:
        return
    told = ", ".join(ascii(name[:80]) for name in unsafe[:5])
    if any(name.startswith(("torch.nn.modules.", "torchvision.models.", "timm.", "torch.fx.")) for name in unsafe):
        raise Refused(
            "format_pickled_module", f"expected a state dict, got a whole pickled network, which needs {told}"
        )
    raise Refused("checkpoint_forbidden_global", f"its pickle calls {told}")


def _state_dict(loaded: Any) -> tuple[dict[str, Tensor], str | None]:
    """The state dict, and the key under which it was nested."""
    if not isinstance(loaded, Mapping):
        raise Refused("checkpoint_not_a_state_dict", f"it holds {type(loaded).__name__} instead of tensors by name")
    nest = next((key for key in NESTS if isinstance(loaded.get(key), Mapping)), None)
    state = loaded if nest is None else loaded[nest]
    if not state:
        raise Refused("checkpoint_not_a_state_dict", "it holds no tensors")
    for name, value in state.items():
        if not isinstance(name, str):
            raise Refused("checkpoint_not_a_state_dict", f"a key of it is {type(name).__name__}; expected a name")
        if isinstance(value, Mapping):
            raise Refused("checkpoint_nested", f"{name[:120]!a} is a dictionary in the state dict")
        if type(value) not in (Tensor, nn.Parameter):
            raise Refused("checkpoint_not_tensors", f"{name[:120]!a} is {type(value).__name__}, and no tensor")
    return dict(state), nest


def _check_tensor(name: str, tensor: Tensor) -> None:
    """Before any number of it is looked at: one that claims more than its storage would become that large."""
    shown = ascii(name[:120])
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise Refused("checkpoint_layout", f"{shown} is sparse, quantized or without numbers")
    if tensor.dtype not in DTYPES:
        raise Refused("checkpoint_dtype", f"{shown} is {tensor.dtype}; expected one of {', '.join(BYTES)}")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes() or _overlaps(tensor):
        raise Refused("checkpoint_view", f"{shown} claims {tuple(tensor.shape)}, more numbers than it stores")


def _overlaps(tensor: Tensor) -> bool:
    reached = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reached:
                return True
            reached += stride * (size - 1)
    return False


def _check_shared(state: Mapping[str, Tensor]) -> None:
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in state.values()}
    needed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if needed > SHARED * sum(stored.values()):
        raise Refused("checkpoint_shared", f"its tensors claim {needed} bytes, and share {sum(stored.values())}")


def _warm_up() -> None:
    """Whatever torch and safetensors import when they first load and save: a confined child could not."""
    state = {"a": nn.Parameter(torch.zeros(2, 2)), "b": torch.zeros(1, dtype=torch.bfloat16)}
    save({name: tensor.detach() for name, tensor in state.items()})
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    torch.load(file, weights_only=True, mmap=False, map_location="cpu")
    file.seek(0)
    torch.serialization.get_unsafe_globals_in_checkpoint(file)


_warm_up()
