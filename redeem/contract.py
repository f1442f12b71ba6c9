"""The wire, v1: every request and resource that crosses HTTP. The report of a job is in `report.py`, the options of
the methods in `options.py` and `detector_options.py`.

Fractions are in [0, 1]; times are UTC; ids are UUIDv7; hashes are lower-case SHA-256 hex. What a client sends is
checked strictly (an unknown field is an error); what it receives may grow new fields within v1.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from redeem.wire import Fraction, Request, Resource

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Tags = Annotated[dict[str, Annotated[str, StringConstraints(max_length=256)]], Field(max_length=32)]
DeviceClass = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
Item = TypeVar("Item")


# Uploads ---------------------------------------------------------------------------------------------------------


class UploadKind(StrEnum):
    model = "model"
    bundle = "bundle"


class UploadRequest(Request):
    """Opens an upload. `size` and `sha256`, where given, are checked against the bytes that come."""

    kind: UploadKind
    filename: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    size: Annotated[int, Field(ge=1)] | None = None
    sha256: Sha256 | None = None


class UploadState(StrEnum):
    open = "open"
    complete = "complete"


class Upload(Resource):
    id: UUID
    kind: UploadKind
    filename: str
    state: UploadState
    size: int | None
    sha256: str | None
    received: int = 0
    """Bytes that came so far and need not be sent again."""
    created_at: datetime


# Models and bundles ----------------------------------------------------------------------------------------------


class Architecture(Request):
    """The network that the weights belong to. What the weights' shapes tell (`num_classes`, `in_channels`, a width)
    may be left out, and is checked where it is given. The name `onnx`: the upload
    is an ONNX file, and says all of it."""

    name: Annotated[str, StringConstraints(pattern=r"^((paper|torchvision|timm)/[A-Za-z0-9_.]+|onnx)$", max_length=100)]
    num_classes: Annotated[int, Field(ge=2, le=100_000)] | None = None
    in_channels: Literal[1, 3] | None = None
    options: dict[str, int | float | bool | str] = {}


class Preprocessing(Request):
    """How the network wants its images: resized to `size` (height, width), scaled to [0, 1], then (x - mean) / std."""

    size: tuple[Annotated[int, Field(ge=4, le=1024)], Annotated[int, Field(ge=4, le=1024)]]
    mean: Annotated[list[float], Field(min_length=1, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=3)]
    channels: Literal["RGB", "L"] = "RGB"

    @model_validator(mode="after")
    def _one_per_channel(self) -> Preprocessing:
        expected = 3 if self.channels == "RGB" else 1
        if len(self.mean) != expected or len(self.std) != expected:
            raise ValueError(f"{self.channels} images need {expected} values of mean and of std")
        return self


class ModelRequest(Request):
    upload: UUID
    architecture: Architecture
    preprocessing: Preprocessing
    labels: Tags = {}


class Model(Resource):
    id: UUID
    upload: UUID
    filename: str
    sha256: str
    size: int
    architecture: Architecture
    preprocessing: Preprocessing
    labels: dict[str, str]
    created_at: datetime


class BundleRole(StrEnum):
    clean = "clean"
    triggered = "triggered"


class BundleRequest(Request):
    """A triggered bundle holds stamped images under their true labels; `target` is the label that the trigger should
    bring about: one for all, or one per image in the order of the bundle."""

    upload: UUID
    role: BundleRole
    target: Annotated[int, Field(ge=0)] | list[Annotated[int, Field(ge=0)]] | None = None

    @model_validator(mode="after")
    def _target_of_triggered(self) -> BundleRequest:
        if (self.role is BundleRole.triggered) != (self.target is not None):
            raise ValueError("`target` belongs to a triggered bundle, and only to one")
        return self


class Bundle(Resource):
    id: UUID
    upload: UUID
    filename: str
    sha256: str
    size: int
    role: BundleRole
    target: int | list[int] | None
    created_at: datetime


# Jobs ------------------------------------------------------------------------------------------------------------


class JobState(StrEnum):
    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in (JobState.succeeded, JobState.failed, JobState.cancelled)


class Stage(StrEnum):
    """The stages of a job, in order."""

    fetch = "fetch"
    load = "load"
    assess_before = "assess_before"
    purify = "purify"
    assess_after = "assess_after"
    judge = "judge"
    publish = "publish"


class Outcome(StrEnum):
    passed = "pass"
    failed = "fail"
    inconclusive = "inconclusive"


class Policy(Request):
    """What the verdict demands of a purified model. A limit on something that was not measured makes the verdict
    `inconclusive` where it would have decided, never a pass; so does one on the MPA that too few images can decide."""

    max_mpa_drop: Fraction = 0.03
    max_asr: Fraction = 0.20
    max_surrogate_asr: Fraction = 0.20
    max_flagged_labels: Annotated[int, Field(ge=0)] = 0


class MethodRequest(Request):
    """A purifier or a detector by name, with options; `GET /v1/purifiers` and `/v1/detectors` tell both."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$", max_length=64)]
    options: dict[str, Any] = {}


def _each_once(methods: list[MethodRequest]) -> list[MethodRequest]:
    # A report has one place for the findings of a detector.
    if len({method.name for method in methods}) < len(methods):
        raise ValueError("every detector may be named once")
    return methods


class JobOptions(Request):
    """What a job is to do, whatever it does it with."""

    purifier: MethodRequest = MethodRequest(name="sage")
    detectors: Annotated[list[MethodRequest], Field(max_length=16), AfterValidator(_each_once)] = [
        MethodRequest(name="neural_cleanse")
    ]
    policy: Policy = Policy()
    seed: Seed = 0
    priority: Annotated[int, Field(ge=0, le=9, description="9 goes first, among the jobs of one tenant")] = 5
    device_class: DeviceClass | None = None
    """The class of workers that it has to run on, one of those that the server has. None: any that serves all jobs."""
    labels: Tags = {}


class JobRequest(JobOptions):
    model: UUID
    clean: UUID
    triggered: UUID | None = None
    webhook: UUID | None = None
    """An endpoint that is told of this job's end, whatever else it is told of."""


class JobError(Resource):
    """Why a job failed: a stable code, what happened, and what to do."""

    code: str
    detail: str
    hint: str


class Job(Resource):
    id: UUID
    state: JobState
    stage: Stage | None
    progress: Fraction
    verdict: Outcome | None
    error: JobError | None
    cancel_requested: bool
    attempts: int
    model: UUID
    clean: UUID
    triggered: UUID | None
    webhook: UUID | None = None
    purifier: MethodRequest
    detectors: list[MethodRequest]
    policy: Policy
    seed: int
    priority: int
    device_class: str | None = None
    labels: dict[str, str]
    timings: dict[str, float]
    """Seconds that each finished stage took."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobEvent(Resource):
    """One line of a job's history; `seq` grows by one within the job and is the SSE id."""

    seq: int
    at: datetime
    type: Literal["state", "stage", "progress"]
    state: JobState
    stage: Stage | None
    progress: Fraction


class Page(Resource, Generic[Item]):
    items: list[Item]
    next_cursor: str | None


# What the server says of itself, and of errors ----------------------------------------------------------------------


class Method(Resource):
    name: str
    summary: str
    options_schema: dict[str, Any]
    """JSON schema of the options, defaults included."""


class ArchitectureFamily(Resource):
    """A network by name and the options it takes besides `num_classes` and `in_channels`."""

    name: str
    options: dict[str, str]


class FieldError(Resource):
    where: str
    message: str


class Problem(Resource):
    """RFC 9457 `application/problem+json`, with a stable `code` and a hint what to do."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    hint: str
    instance: str | None = None
    request_id: str | None = None
    """The `X-Request-Id` of the answer: what the operator finds in the log."""
    errors: list[FieldError] = []
