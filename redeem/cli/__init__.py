"""`redeem …`: every command, and the exit codes that a pipeline gates on.

0 verdict pass, or done · 1 verdict fail · 2 error or inconclusive · 4 wrong usage · 130 interrupted
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

import typer
from typer.exceptions import TyperException
from typer.rich_utils import rich_format_error

from redeem.cli import audit, db, delete, demo, doctor, jobs, keys, purify, results, serve, signing, submit, verify
from redeem.cli.output import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, print_error
from redeem.errors import RedeemError

app = typer.Typer(
    help="Sanitize image classifiers that somebody else trained.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
for command in (
    serve.serve,
    purify.purify,
    submit.submit,
    jobs.jobs,
    jobs.status,
    jobs.watch,
    jobs.cancel,
    delete.delete,
    jobs.retry,
    results.download,
    results.report,
    verify.verify,
    demo.demo,
    doctor.doctor,
):
    app.command()(command)
app.add_typer(db.app, name="db")
app.add_typer(signing.app, name="signing")
app.add_typer(audit.app, name="audit")
app.add_typer(keys.keys, name="keys")
app.add_typer(keys.tenants, name="tenants")


def main(arguments: list[str] | None = None) -> None:
    """Runs a command line and exits."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)  # so that what was started is stopped, as with Ctrl-C
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    try:
        code = app(arguments, prog_name="redeem", standalone_mode=False)
    except RedeemError as error:
        # The parsed options are gone by now, so the question is put to the command line itself.
        print_error(error, as_json="--json" in arguments)
        return EXIT_ERROR
    except TyperException as error:
        rich_format_error(error)  # type: ignore[arg-type]
        return EXIT_USAGE
    except typer.Abort:
        return EXIT_INTERRUPTED
    return code or 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
