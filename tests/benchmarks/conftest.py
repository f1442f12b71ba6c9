from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.worker import lab
from worker.algorithms.architectures.small_resnet import resnet18


@pytest.fixture
def small_example(tmp_path: Path) -> Path:
    """Files of a small job, to be put in place of the example's."""
    torch.manual_seed(0)
    (tmp_path / "suspect.safetensors").write_bytes(lab.weights_file(resnet18(lab.CLASSES, 3, lab.WIDTH)))
    (tmp_path / "clean.safetensors").write_bytes(lab.tensor_bundle(lab.paint(60, 1)))
    job = {
        "model": {
            "file": "suspect.safetensors",
            "architecture": lab.ARCHITECTURE.model_dump(),
            "preprocessing": lab.PREPROCESSING.model_dump(mode="json"),
        },
        "clean": {"file": "clean.safetensors"},
        "purifier": {"name": "sage"},
        "detectors": [{"name": "neural_cleanse", "options": {"batch_size": 2}}],
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    return tmp_path
