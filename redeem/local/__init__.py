"""A whole server on this machine: Valkey, the API and one worker, as processes of this one."""

from redeem.local.server import Address, local_server

__all__ = ["Address", "local_server"]
