"""What everything on the wire is made of: what a client sends is checked strictly, what it receives may grow."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]


class Request(BaseModel):
    """What a client sends: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Resource(BaseModel):
    """What a client receives: unknown fields are of a newer server, and are ignored."""

    model_config = ConfigDict(extra="ignore")
