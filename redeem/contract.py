"""The wire, v1: every request, resource and report that crosses HTTP. The options of the methods are in `options.py`.

Fractions are in [0, 1]; times are UTC; ids are UUIDv7; hashes are lower-case SHA-256 hex. What a client sends is
checked strictly (an unknown field is an error); what it receives may grow new fields within v1.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Tags = Annotated[dict[str, Annotated[str, StringConstraints(max_length=256)]], Field(max_length=32)]
Item = TypeVar("Item")


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Resource(BaseModel):
    model_config = ConfigDict(extra="ignore")


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
    created_at: datetime


# Models and bundles ----------------------------------------------------------------------------------------------


class Architecture(Request):
    """The network that the weights belong to. What the weights' shapes tell (`num_classes`, `in_channels`, a width)
    may be left out, and is checked where it is given."""

    name: Annotated[str, StringConstraints(pattern=r"^(paper|torchvision|timm)/[A-Za-z0-9_.]+$", max_length=100)]
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


class JobOptions(Request):
    """What a job is to do, whatever it does it with."""

    purifier: MethodRequest = MethodRequest(name="sage")
    detectors: Annotated[list[MethodRequest], Field(max_length=8)] = [MethodRequest(name="neural_cleanse")]
    policy: Policy = Policy()
    seed: Seed = 0
    labels: Tags = {}


class JobRequest(JobOptions):
    model: UUID
    clean: UUID
    triggered: UUID | None = None


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
    purifier: MethodRequest
    detectors: list[MethodRequest]
    policy: Policy
    seed: int
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


# Reports ---------------------------------------------------------------------------------------------------------


class NeuralCleanse(Resource):
    """Neural Cleanse over all labels. `norms` are L1 norms of the reversed masks in pixels; `reached` says whether
    the reversed trigger flips enough images to the label; a label that was not reached has no usable norm and counts
    with that of a full mask, all `pixels`.

    `statistic` says what `index` and `indices` (one a label) are. "mad": distances below the median in units of the
    median absolute deviation, which the paper suspects above 2; labels are flagged by `p_value` and size. "ratio": the
    median of the other norms over the norm, suspicious from 10 on; it stands in where there are two or three labels, or
    where the MAD is zero, and has no p-value. `index` is that of the smallest norm.
    """

    index: float
    p_value: Fraction | None
    flagged: list[int]
    norms: list[float]
    reached: list[bool]
    statistic: Literal["mad", "ratio"] = "mad"
    indices: list[float] = []
    median: float | None = None
    mad: float | None = None
    """Median absolute deviation of the norms, in pixels, not scaled."""
    median_suspect: bool = False
    """Half of the labels or more have triggers so small that the median itself may be of backdoors."""
    pixels: int | None = None
    """H · W of an image: the norm of a full mask."""
    images: int | None = None
    """Clean images that the triggers were reversed on."""
    seeds: int = 1
    """Searches made; `norms` are medians over them."""
    spread: list[float] = []
    """The largest less the smallest norm of each label over the seeds."""


class MpaDrop(Resource):
    """By how much the MPA fell against the suspect's, on the same images: `lost` of them the suspect had right and this
    model has wrong, `gained` the other way round. `drop` is (lost - gained) / images, negative where the MPA rose;
    `interval` covers the drop on all images of the kind with 95 % confidence."""

    drop: float
    interval: tuple[float, float]
    lost: int
    gained: int


class Assessment(Resource):
    """One measurement of one model. None means not measured, and a flag says why. The intervals are Wilson's, of 95 %;
    `mpa_drop` is None for the suspect itself."""

    mpa: Fraction
    mpa_images: int
    mpa_interval: tuple[Fraction, Fraction] | None = None
    mpa_drop: MpaDrop | None = None
    mpa_per_class: list[Fraction | None]
    asr: Fraction | None
    asr_images: int
    asr_interval: tuple[Fraction, Fraction] | None = None
    recovery_accuracy: Fraction | None
    surrogate_asr: Fraction | None
    surrogate_asr_images: int = 0
    neural_cleanse: NeuralCleanse | None


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
    errors: list[FieldError] = []
