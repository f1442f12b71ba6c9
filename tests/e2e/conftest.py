from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.worker import lab
from worker.algorithms.data import Images

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of a client, and a place for the server's; leases are short."""
    suspect, clean = lab.train_suspect(), lab.paint(160, 1)
    stamped = Images(lab.TRIGGER.stamp(clean.pixels), clean.labels)
    (tmp_path / "suspect.safetensors").write_bytes(lab.weights_file(suspect))
    (tmp_path / "clean.zip").write_bytes(lab.zip_bundle(clean))
    (tmp_path / "stamped.safetensors").write_bytes(lab.tensor_bundle(stamped))
    monkeypatch.setenv("REDEEM_LEASE", "PT4S")
    monkeypatch.setenv("REDEEM_HEARTBEAT", "PT1S")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path
