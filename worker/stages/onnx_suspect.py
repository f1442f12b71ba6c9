"""A suspect that comes as an ONNX file: to a network, and back to a file that others compute the same with."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from redeem.architectures import ONNX
from redeem.contract import Architecture
from worker.algorithms.architectures import Loaded
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images, as_float
from worker.algorithms.errors import UnknownArchitecture, WeightsMismatch
from worker.algorithms.graphs import Converted, convert
from worker.stages import confinement, sandbox
from worker.stages.errors import Refused
from worker.stages.onnx_graph import Read, as_stored, read_onnx, rewritten
from worker.stages.onnx_run import LOGITS
from worker.stages.weights import read_tensors

COMPARED = 64  # images at most
TOLERANCE = 1e-4  # of the largest output, or of one where all are smaller
MEMORY = 3 * 2**30  # bytes, for what onnxruntime keeps besides the file


@dataclass(frozen=True)
class OnnxSuspect:
    read: Read
    converted: Converted


def load_onnx(path: Path, wanted: Architecture, size: tuple[int, int]) -> tuple[Loaded, OnnxSuspect]:
    """The network of an ONNX file for images of `size`; its weights' keys are the network's own.

    Raises `Refused`, what `sandbox.run` and `convert` do, and `WeightsMismatch` where `wanted` says something else.
    """
    if wanted.options:
        raise UnknownArchitecture(f"{ONNX} has no option {next(iter(wanted.options))!r}: the file says all")
    read = read_onnx(path)
    converted = convert(read.graph, size)
    for what, given, told in (
        ("classes", wanted.num_classes, converted.num_classes),
        ("input channels", wanted.in_channels, converted.in_channels),
    ):
        if given not in (None, told):
            raise WeightsMismatch(f"the graph has {told} {what}, {given} were given")
    if scattered := sorted({use.tensor for use in converted.uses} - read.places.keys()):
        raise Refused("onnx_malformed", f"the numbers of the tensor {scattered[0][:80]!r} are not in one place")
    dtypes = {use.key: torch.float32 for use in converted.uses}
    loaded = Loaded(converted.network, "", converted.num_classes, converted.in_channels, {}, dtypes)
    return loaded, OnnxSuspect(read, converted)


def purified_onnx(
    onnx: OnnxSuspect, state: Mapping[str, Tensor], purified: Classifier, images: Images
) -> tuple[dict[str, Tensor], bytes]:
    """The purified weights by their names in the file, and the file with them in it, seen to give `images` what
    `purified` gives them. Raises `Refused`."""
    weights = as_stored(onnx.converted.uses, state)
    content = rewritten(onnx.read, weights)
    check_same(onnx, content, purified, images)
    return weights, content


def check_same(onnx: OnnxSuspect, content: bytes, model: Classifier, images: Images) -> None:
    """Raises `Refused` where onnxruntime computes something else with the file than the network does."""
    plain = copy.deepcopy(model).cpu().eval()
    with torch.no_grad():
        seen = ((as_float(images.pixels[:COMPARED].cpu()) - plain.mean) / plain.std).contiguous()
        network = plain.network(seen)
        expected = network.softmax(1) if onnx.converted.ends_in_softmax else network
    found = _run(content, seen, onnx.read.graph.shape[0])
    if found.shape != expected.shape:
        raise Refused("onnx_differs", f"the file gives {tuple(found.shape)} and the network {tuple(expected.shape)}")
    apart = (found - expected).abs().max().item()
    if not apart <= TOLERANCE * max(1.0, expected.abs().max().item()):
        raise Refused("onnx_differs", f"the outputs of the file and of the network made of it differ by {apart:.2g}")


def _run(content: bytes, images: Tensor, batch: int | None) -> Tensor:
    given = save({"model": torch.frombuffer(bytearray(content), dtype=torch.uint8), "images": images})
    limits = confinement.Limits(memory=MEMORY + 6 * len(given), cpu=600, wall=1200)
    with tempfile.TemporaryDirectory(prefix="redeem-onnx-") as folder:
        source, out = Path(folder) / "given", Path(folder) / "onnx"
        source.write_bytes(given)
        sandbox.run("run_onnx", source, out, {"batch": batch}, limits)
        return read_tensors(out / LOGITS)["logits"]
