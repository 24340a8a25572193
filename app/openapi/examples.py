"""Examples of requests and answers, as given by the gateway in front of the sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

# Written and compared by tests/openapi/test_document.py.
EXAMPLES = Path(__file__).with_name("examples.json")


def load_examples() -> dict[str, dict[str, Any]]:
    """Returns operation id → its example: `body`, `answer`, `events` or a media type, as far as it has them."""
    examples: dict[str, dict[str, Any]] = msgspec.json.decode(EXAMPLES.read_bytes())
    return examples
