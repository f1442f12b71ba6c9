"""`redeem keys …` and `redeem tenants …`: who may use a server, administered where it runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from redeem.access import Key, NewKey, Scope, Tenant
from redeem.cli.connection import AsJson
from redeem.cli.db import Data
from redeem.cli.output import err, out, print_json
from redeem.local.admin import administer

keys = typer.Typer(help="Administer the API keys of a server, where it runs.", no_args_is_help=True)
tenants = typer.Typer(help="Administer the tenants of a server, where it runs.", no_args_is_help=True)

Prefix = Annotated[str, typer.Argument(metavar="PREFIX", help="The key's public part, between its two underscores.")]
USUAL = [Scope.read, Scope.uploads_write, Scope.jobs_write]


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for, as lists show it.")],
    tenant: Annotated[str, typer.Option(help="Whose objects it reaches.")] = "default",
    scope: Annotated[list[Scope], typer.Option(help="What it may; give it several times.")] = USUAL,
    days: Annotated[
        float | None, typer.Option(min=0.001, max=36500, help="How long it works; by default for ever.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> int:
    """Make a key. It is shown this once."""
    return _print_new(administer("keys create", data, name=name, tenant=tenant, scopes=[*scope], days=days), as_json)


@keys.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> int:
    """List the keys, without their secrets."""
    listed = administer("keys list", data, tenant=tenant)["keys"]
    if as_json:
        print_json(listed)
    for key in [] if as_json else map(Key.model_validate, listed):
        out().print(_line(key))
    return 0


@keys.command("revoke")
def revoke_key(prefix: Prefix, data: Data = None, as_json: AsJson = False) -> int:
    """Refuse a key from now on. A running server may accept it for some seconds yet."""
    answer = administer("keys revoke", data, prefix=prefix)
    print_json(answer) if as_json else out().print(_line(Key.model_validate(answer)))
    return 0


@keys.command("rotate")
def rotate_key(
    prefix: Prefix,
    overlap: Annotated[float, typer.Option(min=0, max=8760, help="Hours that the old key works yet.")] = 24.0,
    data: Data = None,
    as_json: AsJson = False,
) -> int:
    """Make a key like an old one, which ends soon. The new one is shown this once."""
    return _print_new(administer("keys rotate", data, prefix=prefix, overlap_hours=overlap), as_json)


@tenants.command("create")
def create_tenant(
    name: Annotated[str, typer.Argument(help="Small letters, digits, dots, dashes and underscores.")],
    data: Data = None,
    as_json: AsJson = False,
) -> int:
    """Make a tenant. `redeem keys create --tenant` gives it keys."""
    answer = administer("tenants create", data, name=name)
    print_json(answer) if as_json else out().print(f"made tenant {answer['name']}")
    return 0


@tenants.command("list")
def list_tenants(data: Data = None, as_json: AsJson = False) -> int:
    """List the tenants."""
    listed = administer("tenants list", data)["tenants"]
    if as_json:
        print_json(listed)
    for tenant in [] if as_json else map(Tenant.model_validate, listed):
        out().print(f"{tenant.name}  since {tenant.created_at:%Y-%m-%d}")
    return 0


def _print_new(answer: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(answer)
        return 0
    made = NewKey.model_validate(answer)
    err().print(f"{_line(made)}\nThis is the key. Keep it now: it is not shown again.")
    out().print(made.key)
    return 0


def _line(key: Key) -> str:
    used = f"last used {key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never used"
    if key.revoked_at:
        ends = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    else:
        ends = f"ends {key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "no end"
    return f"{key.prefix}  {key.tenant}  {key.name}  {' '.join(key.scopes)}  {ends}  {used}"
