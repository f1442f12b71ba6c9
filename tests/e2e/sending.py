"""What a client sends: the files of the fixture `folder`, and a small job on them."""

from __future__ import annotations

from pathlib import Path

from redeem.client import Client
from redeem.contract import BundleRole, JobRequest, MethodRequest
from tests.worker import lab


def sent(client: Client, folder: Path, epochs: int) -> JobRequest:
    model = client.upload_model(folder / "suspect.safetensors", lab.ARCHITECTURE, lab.PREPROCESSING)
    clean = client.upload_bundle(folder / "clean.zip", BundleRole.clean)
    triggered = client.upload_bundle(folder / "stamped.safetensors", BundleRole.triggered, lab.TARGET)
    return JobRequest(
        model=model.id,
        clean=clean.id,
        triggered=triggered.id,
        purifier=MethodRequest(name="sage", options={"epochs": epochs}),
        detectors=[MethodRequest(name="neural_cleanse", options={"steps": 20, "batch_size": 8})],
    )
