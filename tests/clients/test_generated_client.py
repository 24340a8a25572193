"""A typed client that is generated from the OpenAPI document compiles, and its calls return the declared types."""

from __future__ import annotations

import compileall
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.chat import request
from tests.support.gateway import Gateway, clean_environment
from tests.support.soak import soak_only

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openapi_python_client") is None,
    reason="openapi-python-client is not installed; `make check` installs it",
)

PROGRAM = """
import sys

from generated import AuthenticatedClient
from generated.api.inference import create_chat_completion, create_embeddings
from generated.api.keys_and_limits import create_key, show_own_key
from generated.api.models import list_catalog
from generated.models import (
    ChatCompletion, ChatMessage, ChatMessageRole, ChatRequest, EmbeddingRequest, Error, NewKey, NewKeyAnswer,
)

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2])
model = "accounts/fireworks/models/deepseek-v3p1"
hello = ChatMessage(role=ChatMessageRole.USER, content="Hello!")
answer = create_chat_completion.sync(client=client, body=ChatRequest(model=model, messages=[hello]))
assert isinstance(answer, ChatCompletion), answer
print(answer.choices[0].message.content)
assert answer.usage.total_tokens > answer.usage.completion_tokens > 0

refused = create_chat_completion.sync(client=client, body=ChatRequest(model="no-such-model", messages=[hello]))
assert isinstance(refused, Error) and refused.error.type_ == "not_found_error", refused

embedder = "accounts/fireworks/models/qwen3-embedding-8b"
vectors = create_embeddings.sync(client=client, body=EmbeddingRequest(model=embedder, input_=["a text"], dimensions=8))
assert len(vectors.data[0].embedding) == 8

page = list_catalog.sync(client=client, search="deepseek", limit=5)
assert page.returned == len(page.data) and model in [each.id for each in page.data]

made = create_key.sync(client=client, body=NewKey(name="generated", budgets=["5/day"]))
assert isinstance(made, NewKeyAnswer) and made.data.budgets[0].remaining == 5
own = show_own_key.sync(client=AuthenticatedClient(base_url=sys.argv[1], token=made.key))
assert own.data.limit == 5 and own.data.limit_reset == "daily"
"""


@soak_only("openapi/test_document.py::test_the_document_is_valid_and_is_sent_once")
def test_a_generated_client_compiles_and_makes_a_chat(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "openapi.json").write_bytes(request("GET", f"{gateway.url}/openapi.json").body)
    # Its own formatter is the project's ruff.
    environment = clean_environment()
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    made = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json"),
            *("--output-path", "generated", "--meta", "none", "--fail-on-warning"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert compileall.compile_dir(tmp_path / "generated", quiet=1)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, gateway.url, gateway.key],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("[sandbox] Hello!"), done.stdout + done.stderr
