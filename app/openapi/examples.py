"""Examples of requests and answers, as the gateway gave them in front of the sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

# Written and compared by tests/openapi/test_examples.py.
EXAMPLES = Path(__file__).with_name("examples.json")


def load_examples() -> dict[str, dict[str, Any]]:
    """Returns the id of an operation → its example: `body`, `answer`, `events` or a media type, those that it has."""
    examples: dict[str, dict[str, Any]] = msgspec.json.decode(EXAMPLES.read_bytes())
    return examples
