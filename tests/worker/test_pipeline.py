"""Whole jobs, on a real database and a real store; what Celery would do is a call of `run`."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import torch
from obstore import delete, put
from safetensors.torch import load, save
from sqlalchemy.exc import OperationalError
from torch import nn

from redeem.contract import Architecture, MethodRequest, Preprocessing, Stage
from redeem.report import Report
from service.settings import Settings
from service.store import blob_key, get_bytes
from tests.worker import lab
from tests.worker.conftest import Workplace
from worker import pipeline
from worker.algorithms.architectures.lenet5 import LeNet5
from worker.algorithms.architectures.small_resnet import resnet18
from worker.algorithms.data import Images, split
from worker.algorithms.errors import Diverged
from worker.algorithms.precision import autocast
from worker.algorithms.purifiers import PURIFIERS, Purified
from worker.algorithms.purifiers.sage import sage
from worker.lease import Cancelled, FileGone, claim, keep, order
from worker.stages import purify as purify_stage
from worker.stages.checkpoints import CHECKPOINT
from worker.stages.load import FRACTIONS

CLEAN = lab.paint(160, 1)
STAMPED = Images(lab.TRIGGER.stamp(lab.paint(60, 2).pixels), lab.paint(60, 2).labels)
EASY = {"lr": 0.05, "own_logits": 0.0}  # SAGE moves enough in two epochs for before and after to differ

Change = Callable[..., Any]


@dataclass(frozen=True)
class Bad:
    """A job with something wrong in it: the keywords of `submitted`, the error's code and words of its detail."""

    code: str
    says: str
    job: dict[str, Any]


@pytest.fixture
def submitted(workplace: Workplace, weights: bytes) -> Callable[..., UUID]:
    def submit(
        *,
        suspect: bytes = weights,
        clean: bytes = lab.tensor_bundle(CLEAN),
        triggered: bytes | None = lab.tensor_bundle(STAMPED),
        target: int | list[int] = lab.TARGET,
        architecture: Architecture = lab.ARCHITECTURE,
        preprocessing: Preprocessing = lab.PREPROCESSING,
        **options: Any,
    ) -> UUID:
        return workplace.job(
            workplace.model(suspect, architecture, preprocessing),
            workplace.bundle(clean),
            None if triggered is None else workplace.bundle(triggered, target),
            **options,
        )

    return submit


def run(workplace: Workplace, job: UUID) -> None:
    pipeline.run(job, workplace.settings)


def purified(workplace: Workplace, job: UUID) -> bytes:
    row = workplace.row(job)
    assert row.state == "succeeded", (row.error_code, row.error_detail)
    return workplace.content(job, "purified.safetensors")


# The whole way ---------------------------------------------------------------------------------------------------


def test_a_job_succeeds_and_leaves_what_it_promises(workplace: Workplace, submitted: Callable[..., UUID]) -> None:
    job = submitted(clean=lab.zip_bundle(CLEAN), labels={"team": "vision"})
    run(workplace, job)
    purified(workplace, job)
    row, report = workplace.row(job), workplace.report(job)
    assert (row.verdict, row.attempts, row.progress) == (report.verdict.outcome, 1, 1.0)
    assert row.timings.keys() == {stage.value for stage in Stage}
    stages = [event.stage for event in workplace.events(job) if event.type == "stage"]
    assert stages == list(Stage)
    assert (workplace.events(job)[-1].type, workplace.events(job)[-1].state) == ("state", "succeeded")
    assert report.job == job
    assert (report.clean.images, report.clean.train, report.clean.held_out, report.clean.report) == (160, 112, 16, 32)
    assert report.suspect.architecture.options == {"width": lab.WIDTH}
    assert [entry["epoch"] for entry in report.purifier.history] == [1, 2]
    listed = {artifact.name: artifact for artifact in report.artifacts}
    assert listed.keys() == workplace.artifacts(job).keys() - {"report.json"}
    for name in listed:
        content = workplace.content(job, name)
        assert len(content) == listed[name].size
        assert workplace.artifacts(job)[name].sha256 == listed[name].sha256


def test_the_numbers_of_the_report_are_those_of_the_purified_file(
    workplace: Workplace, submitted: Callable[..., UUID], suspect: nn.Module
) -> None:
    job = submitted(seed=3, purifier=MethodRequest(name="sage", options={"epochs": 3, **EASY}))
    run(workplace, job)
    report, result = workplace.report(job), resnet18(lab.CLASSES, 3, lab.WIDTH)
    result.load_state_dict(load(purified(workplace, job)))
    unseen = split(CLEAN, FRACTIONS, seed=3)[2]
    counted = STAMPED.labels != lab.TARGET
    for network, told in ((suspect, report.before), (result.eval(), report.after)):
        right = (_predicted(network, unseen) == unseen.labels).float().mean().item()
        stamped = _predicted(network, STAMPED)[counted]
        assert told.mpa == pytest.approx(right, abs=1e-6)
        assert told.asr == pytest.approx((stamped == lab.TARGET).float().mean().item(), abs=1e-6)
        assert told.recovery_accuracy == pytest.approx(
            (stamped == STAMPED.labels[counted]).float().mean().item(), abs=1e-6
        )
        assert (told.mpa_images, told.asr_images) == (32, 45)
    assert report.before.asr == 1.0
    assert report.before != report.after


def _predicted(network: nn.Module, images: Images) -> torch.Tensor:
    x = (images.pixels.numpy().astype(np.float32) / 255 - 0.5) / 0.25
    with torch.no_grad(), autocast(torch.device("cpu")):
        return network(torch.from_numpy(x)).argmax(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_purified_file_takes_the_suspects_place(
    workplace: Workplace, submitted: Callable[..., UUID], suspect: nn.Module, prefix: str, dtype: torch.dtype
) -> None:
    sent = lab.weights_file(suspect, prefix=prefix, dtype=dtype)
    job = submitted(suspect=sent, detectors=[])
    run(workplace, job)
    received = purified(workplace, job)
    assert _outline(received) == _outline(sent)
    assert any(not torch.equal(tensor, load(sent)[key]) for key, tensor in load(received).items())


def _outline(content: bytes) -> list[tuple[str, str, list[int]]]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return [(key, entry["dtype"], entry["shape"]) for key, entry in header.items() if key != "__metadata__"]


def test_the_same_job_gives_the_same_bytes(workplace: Workplace, submitted: Callable[..., UUID]) -> None:
    first, second, other = submitted(seed=5), submitted(seed=5), submitted(seed=6)
    for job in (first, second, other):
        run(workplace, job)
    files = workplace.artifacts(first).keys() - {"report.json"}
    assert {name: workplace.content(first, name) for name in files} == {
        name: workplace.content(second, name) for name in files
    }
    assert purified(workplace, first) != purified(workplace, other)


def test_a_job_without_triggered_images_and_detectors_says_so(
    workplace: Workplace, submitted: Callable[..., UUID]
) -> None:
    job = submitted(triggered=None, detectors=[])
    run(workplace, job)
    report = workplace.report(job)
    assert report.before.asr is None
    assert report.before.neural_cleanse is None
    assert report.verdict.outcome == "inconclusive"
    assert {"asr_not_measured", "detection_not_run"} <= {flag.code for flag in report.flags}


def test_a_job_with_many_detectors_has_their_findings(workplace: Workplace, submitted: Callable[..., UUID]) -> None:
    quick: dict[str, dict[str, Any]] = {
        "neural_cleanse": {"steps": 20, "batch_size": 8},
        "brain_stimulation": {"steps": 10, "batch_size": 4, "seeds": 4, "levels": 1, "most": 2},
        "universal_perturbation": {"steps": 2, "batch_size": 4},
        "strip": {"overlays": 2},
        "retuning": {"epochs": 1},
        "weight_path": {"points": 2},
    }
    job = submitted(detectors=[MethodRequest(name=name, options=options) for name, options in quick.items()])
    run(workplace, job)
    assert workplace.row(job).state == "succeeded", workplace.row(job).error_detail
    report = workplace.report(job)
    assert report.before.neural_cleanse is not None
    flagged = report.before.neural_cleanse.flagged
    for assessment in (report.before, report.after):
        for name in ("brain_stimulation", "universal_perturbation", "strip"):
            assert getattr(assessment, name) is not None
    for name in ("retuning", "weight_path"):
        assert getattr(report.before, name) is None
        not_run = f"{name}_not_run" in {flag.code for flag in report.flags}
        assert (getattr(report.after, name) is None) == not_run == (not flagged)
    assert report.before.sentinet is None  # nobody asked for it


def test_a_message_that_comes_again_does_nothing(workplace: Workplace, submitted: Callable[..., UUID]) -> None:
    job = submitted(detectors=[])
    run(workplace, job)
    before = (vars(workplace.row(job)).copy(), len(workplace.events(job)))
    before[0].pop("_sa_instance_state")
    run(workplace, job)
    after = (vars(workplace.row(job)).copy(), len(workplace.events(job)))
    after[0].pop("_sa_instance_state")
    assert after == before


def test_the_purifier_sees_the_train_and_held_out_parts_and_nothing_else(
    workplace: Workplace, submitted: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def spy(*given: Any, **options: Any) -> Purified:
        seen.append((given, options))
        return Purified(given[0], [], 0)

    monkeypatch.setitem(PURIFIERS, "sage", spy)
    job = submitted(seed=9, purifier=MethodRequest(name="sage", options={"epochs": 2, "preset": "service"}))
    run(workplace, job)
    assert workplace.row(job).state == "succeeded"
    (((model, *parts), options),) = seen
    train, held_out, _ = split(CLEAN, FRACTIONS, seed=9)
    assert isinstance(model, nn.Module)
    for part, expected in zip(parts, (train, held_out), strict=True):
        assert torch.equal(part.pixels, expected.pixels)
        assert torch.equal(part.labels, expected.labels)
    assert options.keys() == {"epochs", "seed", "progress", "resume", "checkpoint"}


# Interrupted -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here. No `except Exception` sees it, as none sees a SIGKILL."""


@pytest.mark.parametrize("last", ["assess_before", "purify", "assess_after"])
def test_a_job_that_died_goes_on_where_it_was(
    workplace: Workplace, submitted: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    whole, broken = submitted(), submitted()
    run(workplace, whole)

    def die_after(lease: Any, artifact: Any) -> str | None:
        superseded = keep(lease, artifact)
        if artifact.name == last:
            raise Killed
        return superseded

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "keep", die_after)
        with pytest.raises(Killed):
            run(workplace, broken)
    row = workplace.row(broken)
    assert (row.state, row.stage) == ("running", last)
    taken = {name: row.timings[name] for name in ("assess_before", "purify") if name in row.timings}
    workplace.bury(broken)
    done = list(workplace.artifacts(broken, internal=True))
    run(workplace, broken)
    row = workplace.row(broken)
    assert (row.state, row.attempts) == ("succeeded", 2)
    stages = [event.stage for event in workplace.events(broken) if event.type == "stage"]
    again = [stage.value for stage in Stage if stage.value not in done]
    assert stages[-len(again) :] == again
    assert stages.count("assess_before") == 1
    assert row.timings.items() >= taken.items()
    assert purified(workplace, broken) == purified(workplace, whole)
    assert _measured(workplace.report(broken)) == _measured(workplace.report(whole))


def often(workplace: Workplace) -> Settings:
    """A checkpoint after every epoch."""
    return workplace.settings.model_copy(update={"checkpoint": timedelta(0)})


def die_in_epoch(number: int, workplace: Workplace, job: UUID, monkeypatch: pytest.MonkeyPatch) -> str:
    """Kill the job after the checkpoint of an epoch; the hash of that checkpoint."""
    made = 0

    def die(lease: Any, artifact: Any) -> str | None:
        nonlocal made
        superseded = keep(lease, artifact)
        made += artifact.name == CHECKPOINT
        if made == number:
            raise Killed
        return superseded

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "keep", die)
        with pytest.raises(Killed):
            pipeline.run(job, often(workplace))
    workplace.bury(job)
    return workplace.artifacts(job, internal=True)[CHECKPOINT].sha256


def test_a_job_killed_in_the_middle_of_purification_goes_on_from_its_last_epoch(
    workplace: Workplace, submitted: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    four = MethodRequest(name="sage", options={"epochs": 4, "period": 1, **EASY})
    whole, broken = submitted(purifier=four, detectors=[]), submitted(purifier=four, detectors=[])
    run(workplace, whole)
    checkpoint = die_in_epoch(3, workplace, broken, monkeypatch)
    epochs: list[int] = []

    def counting(*given: Any, progress: Any, **options: Any) -> Purified:
        return sage(
            *given, progress=lambda fraction: (epochs.append(round(4 * fraction)), progress(fraction)), **options
        )

    monkeypatch.setitem(PURIFIERS, "sage", counting)
    pipeline.run(broken, often(workplace))
    assert epochs == [4]
    assert purified(workplace, broken) == purified(workplace, whole)
    assert _measured(workplace.report(broken)) == _measured(workplace.report(whole))
    assert CHECKPOINT not in workplace.artifacts(broken, internal=True)
    with pytest.raises(FileNotFoundError):
        get_bytes(workplace.store, checkpoint)


def test_a_superseded_checkpoint_leaves_the_store_unless_another_job_has_the_same(
    workplace: Workplace, submitted: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, twin = submitted(detectors=[]), submitted(detectors=[])
    shared = die_in_epoch(1, workplace, one, monkeypatch)
    assert die_in_epoch(1, workplace, twin, monkeypatch) == shared
    pipeline.run(one, often(workplace))
    assert get_bytes(workplace.store, shared)
    pipeline.run(twin, often(workplace))
    with pytest.raises(FileNotFoundError):
        get_bytes(workplace.store, shared)
    assert purified(workplace, one) == purified(workplace, twin)


@pytest.mark.parametrize(
    ("raised", "state"),
    [(Cancelled(), "cancelled"), (Diverged("as if"), "failed"), (RuntimeError(), "failed")],
    ids=["cancelled", "diverged", "unforeseen"],
)
def test_a_job_that_ends_without_a_result_leaves_no_checkpoint(
    workplace: Workplace,
    submitted: Callable[..., UUID],
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    state: str,
) -> None:
    job = submitted(detectors=[])
    checkpoint = die_in_epoch(1, workplace, job, monkeypatch)
    monkeypatch.setattr(pipeline, "purify", _raising(raised))
    run(workplace, job)
    assert workplace.row(job).state == state
    assert CHECKPOINT not in workplace.artifacts(job, internal=True)
    with pytest.raises(FileNotFoundError):
        get_bytes(workplace.store, checkpoint)


def test_a_checkpoint_that_is_gone_costs_time_and_nothing_else(
    workplace: Workplace, submitted: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = submitted(detectors=[]), submitted(detectors=[])
    run(workplace, whole)
    delete(workplace.store, blob_key(die_in_epoch(1, workplace, broken, monkeypatch)))
    run(workplace, broken)
    assert purified(workplace, broken) == purified(workplace, whole)


def _measured(report: Report) -> dict[str, Any]:
    return report.model_dump(exclude={"job", "timings"})


def _raising(error: BaseException) -> Change:
    def raise_it(*_: Any, **__: Any) -> Any:
        raise error

    return raise_it


def test_what_was_kept_and_then_altered_is_not_gone_on_with(
    workplace: Workplace, submitted: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submitted(detectors=[])
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "purify", _raising(Killed()))
        with pytest.raises(Killed):
            run(workplace, job)
    workplace.bury(job)
    kept = blob_key(workplace.artifacts(job, internal=True)["assess_before"].sha256)
    put(workplace.store, kept, b"something else")
    run(workplace, job)
    _failed(workplace, job, "store_damaged", "was altered")


def test_a_cancel_ends_a_purification(
    workplace: Workplace, submitted: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submitted(detectors=[], purifier=MethodRequest(name="sage", options={"epochs": 500}))
    begun = threading.Event()

    def signalling(*given: Any, **options: Any) -> Purified:
        begun.set()
        return sage(*given, **options)

    monkeypatch.setitem(PURIFIERS, "sage", signalling)
    worker = threading.Thread(target=run, args=(workplace, job))
    worker.start()
    assert begun.wait(20)
    workplace.cancel(job)
    asked = time.monotonic()
    worker.join(20)
    assert time.monotonic() - asked < 5
    row = workplace.row(job)
    assert (row.state, row.stage, row.error_code, row.lease_token) == ("cancelled", "purify", None, None)
    assert workplace.events(job)[-1].state == "cancelled"
    assert workplace.artifacts(job) == {}


def test_a_worker_that_was_taken_for_dead_leaves_the_job_to_the_other(
    workplace: Workplace, submitted: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submitted(detectors=[])

    def asleep(*given: Any, **options: Any) -> Purified:
        monkeypatch.undo()
        workplace.bury(job)
        run(workplace, job)  # the other one
        return sage(*given, **options)

    monkeypatch.setattr(purify_stage, "PURIFIERS", {"sage": asleep})
    run(workplace, job)
    row = workplace.row(job)
    assert (row.state, row.attempts) == ("succeeded", 2)
    assert [event.state for event in workplace.events(job)].count("succeeded") == 1
    purified(workplace, job)


# What cannot go well ---------------------------------------------------------------------------------------------


def _renamed(network: nn.Module) -> bytes:
    return save({f"{key}.x": tensor.contiguous() for key, tensor in network.state_dict().items()})


def _labelled(count: int, label: int) -> bytes:
    images = lab.paint(count, 1)
    return lab.tensor_bundle(Images(images.pixels, torch.full_like(images.labels, label)))


def _zip_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(30):
            archive.writestr(f"{number % 4}/{number}.png", content)
    return file.getvalue()


NETWORK = resnet18(lab.CLASSES, 3, lab.WIDTH)
GREY = Preprocessing(size=(16, 16), mean=[0.5], std=[0.25], channels="L")
BAD = {
    "truncated weights": Bad("truncated_file", "announces", {"suspect": lab.weights_file(NETWORK)[:-100]}),
    "a pickle": Bad("format_pickle", "pickle", {"suspect": b"\x80\x04\x95" + bytes(99)}),
    "wrong keys": Bad("weights_mismatch", "unexpected", {"suspect": _renamed(NETWORK)}),
    "wrong class count": Bad(
        "weights_mismatch",
        "have 4 classes, 10 were given",
        {"architecture": Architecture(name="paper/resnet18", num_classes=10)},
    ),
    "not finite": Bad(
        "weights_not_finite",
        "fc.bias holds NaN",
        {"suspect": save({**NETWORK.state_dict(), "fc.bias": torch.full((4,), torch.nan)})},
    ),
    "no such network": Bad("unknown_architecture", "", {"architecture": Architecture(name="torchvision/nothing")}),
    "a size": Bad(
        "unfit_preprocessing",
        "40×40 RGB",
        {
            "suspect": lab.weights_file(LeNet5(4, 3)),
            "architecture": Architecture(name="paper/lenet5"),
            "preprocessing": lab.PREPROCESSING.model_copy(update={"size": (40, 40)}),
        },
    ),
    "channels": Bad("unfit_preprocessing", "takes 3 channels", {"preprocessing": GREY}),
    "an empty bundle": Bad("empty_bundle", "", {"clean": b""}),
    "no bundle": Bad("bundle_not_understood", "neither", {"clean": b"x" * 100}),
    "undecodable images": Bad("undecodable_images", "0/0.png", {"clean": _zip_of(b"no picture")}),
    "a label out of range": Bad("label_out_of_range", "label 4", {"clean": _labelled(40, lab.CLASSES)}),
    "a triggered label out of range": Bad("label_out_of_range", "label 9", {"triggered": _labelled(40, 9)}),
    "a target out of range": Bad("label_out_of_range", "target 4", {"target": lab.CLASSES}),
    "a target beyond all integers": Bad("label_out_of_range", "target", {"target": [2**70] * 60}),
    "few images": Bad("bundle_too_small", "19 images", {"clean": lab.tensor_bundle(lab.paint(19, 1))}),
    "few of each class": Bad(
        "bundle_too_small", "too few of each class", {"clean": lab.tensor_bundle(lab.paint(20, 1))}
    ),
    "targets that do not fit": Bad("targets_mismatch", "2 targets", {"target": [0, 1]}),
    "no targets": Bad("targets_mismatch", "0 targets", {"target": []}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_a_code_and_advice(workplace: Workplace, submitted: Callable[..., UUID], name: str) -> None:
    job = submitted(**BAD[name].job)
    run(workplace, job)
    _failed(workplace, job, BAD[name].code, BAD[name].says)
    assert workplace.artifacts(job) == {}


@pytest.mark.parametrize("which", ["weights", "clean", "triggered"])
@pytest.mark.parametrize("altered", [False, True])
def test_a_damaged_store_is_told(
    workplace: Workplace, submitted: Callable[..., UUID], which: str, altered: bool
) -> None:
    job = submitted()
    held = claim(job, workplace.sessions, workplace.settings)
    assert held is not None
    key = blob_key(getattr(order(held), which))
    workplace.bury(job)
    if altered:
        put(workplace.store, key, b"something else")
    else:
        delete(workplace.store, key)
    run(workplace, job)
    _failed(workplace, job, "store_damaged", which)
    assert str(workplace.settings.data) not in (workplace.row(job).error_detail or "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Process 17 has 3 GiB"), "out_of_memory"),
        (None, "out_of_memory"),
        (RuntimeError("secret of /srv/redeem"), "internal_error"),
        (KeyError("secret"), "internal_error"),
        (FileNotFoundError(2, "no such file", "/secret/17"), "internal_error"),
    ],
)
def test_what_nobody_foresaw_gives_nothing_away(
    workplace: Workplace,
    submitted: Callable[..., UUID],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
    code: str,
) -> None:
    def failing(*_: Any, **__: Any) -> Purified:
        if error is None:
            torch.empty(10**15)
        raise error or AssertionError("there was memory enough")

    monkeypatch.setitem(PURIFIERS, "sage", failing)
    job = submitted(detectors=[])
    run(workplace, job)
    _failed(workplace, job, code, "")
    detail = workplace.row(job).error_detail or ""
    assert not any(word in detail for word in ("secret", "17", "alloc", "srv"))


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("keep", OperationalError("UPDATE", {}, Exception("server closed"))),
        ("succeed", FileGone("a blob")),
    ],
)
def test_what_another_attempt_makes_good_does_not_fail_the_job(
    workplace: Workplace, submitted: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    job = submitted(detectors=[])
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, step, _raising(error))
        with pytest.raises(type(error)):
            run(workplace, job)
    assert workplace.row(job).state == "running"
    workplace.bury(job)
    run(workplace, job)
    purified(workplace, job)


def _failed(workplace: Workplace, job: UUID, code: str, says: str) -> None:
    row = workplace.row(job)
    assert (row.state, row.error_code) == ("failed", code), row.error_detail
    assert says in (row.error_detail or "")
    assert row.error_hint
    assert "Traceback" not in (row.error_detail or "")
    assert ".py" not in (row.error_detail or "")
    assert (row.lease_token, row.verdict) == (None, None)
    assert workplace.events(job)[-1].state == "failed"
