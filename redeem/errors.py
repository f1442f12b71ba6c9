"""What can go wrong on the user's side. Every error tells what happened, has a stable code, and says what to do.

RedeemError
├── ServerProblem     the server answered with an error (RFC 9457)
├── Unreachable       no server answered
├── Corrupt           bytes arrived that are not the ones announced
├── BadInput          a file or a value on this side is not what was expected
├── NotGenuine        a file is not what a server attested
└── ServeError        a server on this machine could not start, or did not stay up
"""

from __future__ import annotations

from redeem.contract import FieldError


class RedeemError(Exception):
    def __init__(self, code: str, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.hint = hint


class ServerProblem(RedeemError):
    """The server refused. `status` is HTTP's; `errors` names the fields where the request was wrong."""

    def __init__(self, status: int, code: str, detail: str, hint: str, errors: list[FieldError] | None = None) -> None:
        super().__init__(code, detail, hint)
        self.status = status
        self.errors = errors or []


class Unreachable(RedeemError):
    pass


class Corrupt(RedeemError):
    pass


class BadInput(RedeemError):
    pass


class NotGenuine(RedeemError):
    pass


class ServeError(RedeemError):
    pass
