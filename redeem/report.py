"""The report of a job: what was done to a suspect, what was measured of it before and after (`assessment.py`), and the
verdict."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from redeem.assessment import Assessment
from redeem.contract import Architecture, Outcome, Policy, Preprocessing
from redeem.scanning import Scan
from redeem.wire import Resource


class Flag(Resource):
    """Something that the reader of a report should know before believing it."""

    code: str
    message: str
    advice: str


class Verdict(Resource):
    outcome: Outcome
    reasons: list[str]
    policy: Policy


class Artifact(Resource):
    name: str
    media_type: str
    size: int
    sha256: str


class SuspectSummary(Resource):
    sha256: str
    format: str = "safetensors"
    """What was uploaded: `safetensors`, or `checkpoint` for a state dict of `torch.save`, `onnx`."""
    scan: Scan | None = None
    """None where there was no pickle to scan."""
    architecture: Architecture
    preprocessing: Preprocessing
    parameters: int


class CleanSummary(Resource):
    """How the clean bundle was used: images to train on, held out for choices, and kept for the MPA below."""

    sha256: str
    images: int
    train: int
    held_out: int
    report: int
    per_class: list[int] = []
    """Images of each class."""
    duplicates: int = 0
    """Images that are another one again, pixel by pixel."""
    doubted: int = 0
    """Images that the suspect is sure to be of another class than they are said to be."""


class Tap(Resource):
    """Where the purifier read attention: a module of the suspect, and the size of its feature maps."""

    name: str
    channels: int
    height: int
    width: int


class PurifierSummary(Resource):
    name: str
    options: dict[str, Any]
    seed: int
    chosen_epoch: int
    taps: list[Tap] = []
    history: list[dict[str, float]]
    """One entry an epoch, or a step of a search (`epoch` numbers either), measured on the clean bundle's training and
    held-out parts."""


class Environment(Resource):
    redeem: str
    torch: str
    device: str
    threads: int
    number_format: str
    sandbox: list[str] = []
    """What confines the process that reads uploads: `limits`, and where the kernel has them `landlock`, `seccomp`."""


class Report(Resource):
    schema_version: Literal["redeem.report/1"] = "redeem.report/1"
    job: UUID
    suspect: SuspectSummary
    clean: CleanSummary
    purifier: PurifierSummary
    before: Assessment
    after: Assessment
    flags: list[Flag]
    verdict: Verdict
    artifacts: list[Artifact]
    environment: Environment
    timings: dict[str, float]
