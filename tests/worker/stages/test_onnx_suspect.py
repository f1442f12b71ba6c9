"""A suspect as an ONNX file, compared with what others compute with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from redeem.contract import Architecture
from tests.worker import lab
from tests.worker.onnx_files import KEEP_BATCH_NORMS, exported
from worker.algorithms.architectures import dump
from worker.algorithms.classifier import Classifier
from worker.algorithms.errors import AlgorithmError
from worker.stages.errors import Refused
from worker.stages.onnx_bytes import with_numbers
from worker.stages.onnx_suspect import check_same, load_onnx, purified_onnx

IMAGES = lab.paint(37, 5)


def put(folder: Path, content: bytes) -> Path:
    (folder / "suspect.onnx").write_bytes(content)
    return folder / "suspect.onnx"


def classifier(network: nn.Module) -> Classifier:
    return Classifier(network, lab.PREPROCESSING.mean, lab.PREPROCESSING.std).eval()


@pytest.mark.parametrize("batch", [None, 4])
def test_the_file_and_its_network_are_seen_to_agree(tmp_path: Path, suspect: nn.Module, batch: int | None) -> None:
    content = exported(suspect, 16, batch=batch, **KEEP_BATCH_NORMS)
    loaded, onnx = load_onnx(put(tmp_path, content), Architecture(name="onnx", num_classes=4, in_channels=3), (16, 16))
    check_same(onnx, content, classifier(loaded.network), IMAGES)
    state = dump(loaded, loaded.network)
    weights, unchanged = purified_onnx(onnx, state, classifier(loaded.network), IMAGES)
    assert unchanged == content
    assert all(torch.equal(weights[name], tensor) for name, tensor in suspect.state_dict().items() if name in weights)


def test_a_file_that_computes_something_else_is_not_published(tmp_path: Path, suspect: nn.Module) -> None:
    content = exported(suspect, 16, **KEEP_BATCH_NORMS)
    loaded, onnx = load_onnx(put(tmp_path, content), Architecture(name="onnx"), (16, 16))
    bias = onnx.read.graph.tensors["fc.bias"] + torch.tensor([0.0, 0.0, 0.01, 0.0])
    other = with_numbers(content, {"fc.bias": bias.numpy().tobytes()}, onnx.read.places)
    with pytest.raises(Refused, match=r"differ by 0\.01") as refused:
        check_same(onnx, other, classifier(loaded.network), IMAGES)
    assert refused.value.code == "onnx_differs"


@pytest.mark.parametrize(
    ("wanted", "size", "code"),
    [
        (Architecture(name="onnx", num_classes=7), (16, 16), "weights_mismatch"),
        (Architecture(name="onnx", in_channels=1), (16, 16), "weights_mismatch"),
        (Architecture(name="onnx", options={"width": 8}), (16, 16), "unknown_architecture"),
        (Architecture(name="onnx"), (32, 32), "onnx_unfit_graph"),
    ],
)
def test_what_contradicts_the_file_is_refused(
    tmp_path: Path, suspect: nn.Module, wanted: Architecture, size: tuple[int, int], code: str
) -> None:
    with pytest.raises(AlgorithmError) as refused:
        load_onnx(put(tmp_path, exported(suspect, 16)), wanted, size)
    assert refused.value.code == code
