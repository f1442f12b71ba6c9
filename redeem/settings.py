"""What the command line reads from the environment, and what the processes that it starts get to see of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import redeem

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8642


_SHARED = ("REDEEM_DATABASE_URL", "REDEEM_BROKER_URL", "REDEEM_STORE_URL")


@dataclass(frozen=True)
class Settings:
    server: str | None
    """Address of a server, from REDEEM_SERVER."""
    api_key: str | None
    """From REDEEM_API_KEY. Without it, a server on this machine is asked with the key in its data folder."""
    data: Path
    """The data folder of the server on this machine, from REDEEM_DATA."""
    shares: bool
    """Whether this is one of several hosts: a database, a broker or a store that they share is named."""


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    return Settings(
        server=environment.get("REDEEM_SERVER") or None,
        api_key=environment.get("REDEEM_API_KEY") or None,
        data=Path(environment.get("REDEEM_DATA") or "redeem-data"),
        shares=any(environment.get(name) for name in _SHARED),
    )


# A server of one machine keeps everything in its one folder, whatever the shell says for others; and it needs no key.
_NOT_INHERITED = ("REDEEM_SERVER", "REDEEM_API_KEY", *_SHARED)


def child_environment(**changes: str) -> dict[str, str]:
    """The environment of a process of the local server. Python packages come from where this one came from, never
    from the folder that the user happens to be in."""
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return _with_our_packages(inherited) | changes


def admin_environment(data: Path | None) -> dict[str, str]:
    """The environment of a process that administers whatever database the shell names, or the one in `data`."""
    return _with_our_packages(dict(os.environ)) | ({} if data is None else {"REDEEM_DATA": str(data)})


def _with_our_packages(environment: dict[str, str]) -> dict[str, str]:
    home = str(Path(redeem.__file__).parent.parent)
    path = os.pathsep.join(part for part in (home, environment.get("PYTHONPATH")) if part)
    return environment | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
