"""The interface as OpenAPI describes it: `python -m service.openapi` writes what `docs/openapi.json` holds."""

from __future__ import annotations

import json
import sys

from service.app import create_app
from service.settings import Settings


def document() -> str:
    """JSON, the same for the same routes and library versions."""
    return json.dumps(create_app(Settings()).openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
