"""A job, stage by stage, in the order of `redeem.contract.Stage`: the way of the data on the worker's side."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from uuid import UUID

import structlog
from obstore.exceptions import GenericError
from obstore.store import ObjectStore
from sqlalchemy.exc import OperationalError
from torch import Tensor

from redeem.assessment import Assessment
from redeem.contract import JobError, Stage
from redeem.report import Flag, PurifierSummary, Report, SuspectSummary, Tap, Verdict
from service import tracing
from service.database import open_engine, sessions
from service.settings import Settings
from service.store import is_full, open_store, remove
from worker.algorithms.errors import AlgorithmError
from worker.algorithms.out_of_memory import out_of_memory
from worker.heartbeat import heartbeat
from worker.lease import (
    Cancelled,
    FileGone,
    Lease,
    LeaseLost,
    Leaving,
    Order,
    claim,
    drop,
    end_cancelled,
    fail,
    give_back,
    keep,
    kept,
    order,
    progress,
    stage,
    succeed,
    timings,
)
from worker.stages.assess import as_triggers, assess
from worker.stages.attention_pictures import attention_pictures
from worker.stages.checkpoints import CHECKPOINT, keeping, read_checkpoint
from worker.stages.clean_bundle import clean_flags, summary
from worker.stages.device import environment, peak_memory, pick
from worker.stages.errors import StageError
from worker.stages.fetch import fetch
from worker.stages.flags import flags
from worker.stages.judge import judge
from worker.stages.kept import Kept, read_kept, write_kept
from worker.stages.load import Inputs, load, rebuilt
from worker.stages.onnx_suspect import purified_onnx
from worker.stages.pictures import pictures
from worker.stages.publish import publish_files, publish_onnx, publish_report
from worker.stages.purify import purify
from worker.stages.understood import know_methods, understanding

log = structlog.get_logger()


def run(job: UUID, settings: Settings) -> None:
    """Claim a job and bring it to an end; every way out leaves a terminal state, or a lease for somebody else to take.

    Does nothing when the job is not to be had: a message may come twice, or late.
    """
    engine, lease = open_engine(settings), None
    try:
        lease = claim(job, sessions(engine), settings)
        if lease is None:
            log.info("nothing to do", job=str(job))
            return
        with (
            structlog.contextvars.bound_contextvars(job=str(job), tenant=str(lease.tenant)),
            tracing.continued(lease.traceparent, "job", {"redeem.job": str(job), "redeem.tenant": str(lease.tenant)}),
            tempfile.TemporaryDirectory(prefix="redeem-job-") as folder,
            heartbeat(lease, lambda: _die(folder)),
        ):
            _run_to_its_end(lease, open_store(settings), Path(folder))
    except Leaving:
        if lease is not None:
            log.info("given back", job=str(job))
            give_back(lease)
    except LeaseLost:
        log.warning("lease lost", job=str(job))
    finally:
        engine.dispose()


def _run_to_its_end(lease: Lease, store: ObjectStore, folder: Path) -> None:
    try:
        sanitize(lease, store, folder)
        log.info("succeeded", **peak_memory())
    except (LeaseLost, OperationalError, FileGone):  # nothing can be said, or made good here: the lease brings it back
        raise
    except Cancelled:
        _remove_checkpoint(lease, store)
        end_cancelled(lease)
    except (AlgorithmError, StageError) as error:
        log.info("failed", code=error.code)
        _remove_checkpoint(lease, store)
        fail(lease, JobError(code=error.code, detail=str(error), hint=error.hint))
    except Exception as error:
        if isinstance(error, GenericError) and not is_full(error):
            raise  # the store does not answer, for all that it was asked again: another attempt may have more luck
        log.exception("failed")
        _remove_checkpoint(lease, store)
        fail(lease, _unforeseen(error))


def _die(folder: str) -> None:
    """End this process, whatever it hangs in, and leave nothing behind."""
    shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _unforeseen(error: Exception) -> JobError:
    """What the client may know of an error that nobody raised on purpose: neither its message nor where it was."""
    if is_full(error):
        hint = "Have space made where the server keeps its files, and retry the job."
        return JobError(code="storage_full", detail="The disk that the worker writes to is full.", hint=hint)
    if out_of_memory(error):
        hint = "Use a smaller network or bundle, or a worker with more memory."
        return JobError(code="out_of_memory", detail="The worker's memory ran out.", hint=hint)
    hint = "This is a fault of the server; its worker's log has the details under the job's id."
    return JobError(code="internal_error", detail=type(error).__name__, hint=hint)


def sanitize(lease: Lease, store: ObjectStore, folder: Path) -> None:
    """Fetch, load, assess, purify, assess again, judge, publish."""
    wanted, device = _understood(lease), pick()

    def report_progress(fraction: float) -> None:
        progress(lease, fraction)

    def once(name: Stage, compute: Callable[[], Kept]) -> Kept:
        return _once(lease, store, name, compute)

    with stage(lease, Stage.fetch):
        files = fetch(store, folder, weights=wanted.weights, clean=wanted.clean, triggered=wanted.triggered)
    with stage(lease, Stage.load):
        inputs = load(files, wanted.architecture, wanted.preprocessing, wanted.target, seed=wanted.seed, device=device)
    measured = once(
        Stage.assess_before,
        lambda: assess(inputs.suspect, inputs, wanted.detectors, seed=wanted.seed, progress=report_progress),
    )
    before, triggers = Assessment.model_validate(measured.facts), as_triggers(measured.tensors)
    purified = once(
        Stage.purify,
        lambda: purify(
            inputs,
            wanted.purifier,
            seed=wanted.seed,
            progress=report_progress,
            resume=read_checkpoint(store, kept(lease, CHECKPOINT)),
            checkpoint=keeping(store, lease.settings.checkpoint, lambda artifact: keep(lease, artifact)),
        ),
    )
    _remove_checkpoint(lease, store)
    measured = once(
        Stage.assess_after,
        lambda: assess(
            rebuilt(inputs, purified.tensors),
            inputs,
            wanted.detectors,
            seed=wanted.seed,
            suspects_triggers=triggers,
            suspects_flagged=before.neural_cleanse.flagged if before.neural_cleanse else [],
            progress=report_progress,
        ),
    )
    after = Assessment.model_validate(measured.facts)
    with stage(lease, Stage.judge):
        verdict = judge(before, after, wanted.policy)
    with stage(lease, Stage.publish):
        flagged = before.neural_cleanse.flagged if before.neural_cleanse else []
        taps = [tap["name"] for tap in purified.facts["taps"]]
        drawn = [
            *pictures(inputs, before, after, triggers, purified.facts["history"]),
            *attention_pictures(inputs, rebuilt(inputs, purified.tensors), triggers, flagged, taps),
        ]
        metadata = {
            # Not the job: the same order gives the same bytes, so that whoever doubts a file can make it again.
            "suspect": wanted.weights,
            "clean": wanted.clean,
            "purifier": wanted.purifier.name,
            "options": wanted.purifier.options,
            "seed": wanted.seed,
            "redeem": version("redeem"),
        }
        weights, graph = _as_the_suspect_came(inputs, purified.tensors)
        artifacts = publish_files(store, folder, weights, metadata, drawn)
        if graph is not None:
            artifacts.append(publish_onnx(store, graph))
        report = _report(lease, wanted, inputs, before, after, purified, verdict)
        report.artifacts = artifacts
        artifacts = [*artifacts, publish_report(store, report)]
    succeed(lease, store, verdict.outcome, artifacts, **peak_memory())


def _understood(lease: Lease) -> Order:
    with understanding():
        wanted = order(lease)
    know_methods(wanted.purifier, wanted.detectors)
    return wanted


def _as_the_suspect_came(inputs: Inputs, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], bytes | None]:
    """The purified weights under the names that the upload has for them; and the upload with them in it, if it is a
    graph."""
    if inputs.onnx is None:
        return state, None
    return purified_onnx(inputs.onnx, state, rebuilt(inputs, state), inputs.clean.held_out)


def _once(lease: Lease, store: ObjectStore, name: Stage, compute: Callable[[], Kept]) -> Kept:
    """A stage whose result an earlier attempt has kept is not run again, and the time that it took then stands."""
    sha256 = kept(lease, name)
    if sha256 is not None:
        return read_kept(store, sha256)
    with stage(lease, name):
        result = compute()
        keep(lease, write_kept(store, name, result))
        return result


def _remove_checkpoint(lease: Lease, store: ObjectStore) -> None:
    """Nobody resumes the purification any more. A store that fails leaves a blob behind, and harms no job."""
    superseded = drop(lease, CHECKPOINT)
    if superseded is not None:
        try:
            remove(store, superseded)
        except Exception:
            log.exception("checkpoint not removed")


def _report(
    lease: Lease,
    wanted: Order,
    inputs: Inputs,
    before: Assessment,
    after: Assessment,
    purified: Kept,
    verdict: Verdict,
) -> Report:
    loaded, clean = inputs.loaded, summary(inputs, wanted.clean)
    noted = [dataclasses.asdict(note) for note in inputs.onnx.converted.notes] if inputs.onnx else []
    return Report(
        job=lease.job,
        suspect=SuspectSummary(
            sha256=wanted.weights,
            format=inputs.format,
            scan=inputs.scan,
            architecture=wanted.architecture.model_copy(
                update={
                    "num_classes": loaded.num_classes,
                    "in_channels": loaded.in_channels,
                    "options": loaded.options,
                }
            ),
            preprocessing=wanted.preprocessing,
            parameters=sum(parameter.numel() for parameter in loaded.network.parameters()),
        ),
        clean=clean,
        purifier=PurifierSummary(
            name=wanted.purifier.name,
            options=wanted.purifier.options,
            seed=wanted.seed,
            chosen_epoch=purified.facts["chosen_epoch"],
            taps=[Tap.model_validate(tap) for tap in purified.facts["taps"]],
            history=purified.facts["history"],
        ),
        before=before,
        after=after,
        flags=[
            *clean_flags(clean),
            *flags(before, after),
            *(Flag.model_validate(note) for note in [*noted, *purified.facts["notes"]]),
        ],
        verdict=verdict,
        artifacts=[],
        environment=environment(inputs.clean.train.pixels.device, version("redeem")),
        timings=timings(lease),
    )
