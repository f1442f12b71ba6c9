"""A whole job whose suspect is an ONNX file: it comes back as one."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import onnx
import pytest
import torch
from safetensors.torch import load
from torch import nn

from redeem.contract import Architecture, MethodRequest
from tests.worker import lab, onnx_files
from tests.worker.conftest import Workplace
from tests.worker.onnx_files import KEEP_BATCH_NORMS, exported
from worker import pipeline
from worker.algorithms.data import Images, as_float
from worker.stages.onnx_bytes import places

CLEAN = lab.paint(160, 1)
STAMPED = Images(lab.TRIGGER.stamp(lab.paint(60, 2).pixels), lab.paint(60, 2).labels)
EASY = {"lr": 0.05, "own_logits": 0.0}


def run(workplace: Workplace, content: bytes, purifier: str = "sage", size: int = 16, **options: Any) -> UUID:
    job = workplace.job(
        workplace.model(
            content, Architecture(name="onnx"), lab.PREPROCESSING.model_copy(update={"size": (size, size)})
        ),
        workplace.bundle(lab.tensor_bundle(CLEAN)),
        workplace.bundle(lab.tensor_bundle(STAMPED), lab.TARGET),
        purifier=MethodRequest(name=purifier, options=options),
    )
    pipeline.run(job, workplace.settings)
    return job


def test_a_graph_comes_back_purified(workplace: Workplace, suspect: nn.Module) -> None:
    content = exported(suspect, 16, **KEEP_BATCH_NORMS)
    job = run(workplace, content, epochs=2, **EASY)
    row = workplace.row(job)
    assert row.state == "succeeded", (row.error_code, row.error_detail)
    report, purified = workplace.report(job), workplace.content(job, "purified.onnx")
    assert (report.suspect.architecture.name, report.suspect.architecture.num_classes) == ("onnx", lab.CLASSES)
    assert "purified.onnx" in {artifact.name for artifact in report.artifacts}
    assert [(tap.channels, tap.height) for tap in report.purifier.taps] == [(8, 16), (16, 8), (32, 4), (64, 2)]

    weights = load(workplace.content(job, "purified.safetensors"))
    # Equal tensors, such as the biases of two norms whose outputs are added, are one in the file.
    assert weights.keys() == {tensor.name for tensor in onnx.load_from_string(content).graph.initializer}
    assert all(purified[slice(*places(purified)[name])] == weights[name].numpy().tobytes() for name in weights)

    # The file says what the report says: of the triggered images, as many as were measured.
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (lab.PREPROCESSING.mean, lab.PREPROCESSING.std))
    shown = STAMPED.labels != lab.TARGET
    logits = onnx_files.run(purified, ((as_float(STAMPED.pixels) - mean) / std)[shown])
    asr = (logits.argmax(1) == lab.TARGET).float().mean().item()
    assert report.after.asr == pytest.approx(asr, abs=1e-6)
    assert report.before.asr is not None
    assert report.before.asr > 0.9


@pytest.mark.parametrize(("purifier", "options"), [("fine_pruning", {"epochs": 1}), ("clp", {})])
def test_purifiers_find_the_layers_of_a_graph(
    workplace: Workplace, suspect: nn.Module, purifier: str, options: dict[str, Any]
) -> None:
    job = run(workplace, exported(suspect, 16, **KEEP_BATCH_NORMS), purifier, **options)
    row = workplace.row(job)
    assert row.state == "succeeded", (row.error_code, row.error_detail)


def test_folded_batch_norms_are_flagged(workplace: Workplace, suspect: nn.Module) -> None:
    job = run(workplace, exported(suspect, 16), epochs=1)
    assert "batch_norms_folded" in {flag.code for flag in workplace.report(job).flags}


def test_a_graph_with_an_operator_that_is_not_known_fails_by_its_name(workplace: Workplace) -> None:
    node = onnx_files.helper.make_node("DepthToSpace", ["images"], ["features"], blocksize=1)
    job = run(workplace, onnx_files.classifier(node).SerializeToString(), size=8)
    row = workplace.row(job)
    assert (row.state, row.error_code) == ("failed", "onnx_unsupported_operator")
    assert row.error_detail is not None
    assert "DepthToSpace" in row.error_detail
