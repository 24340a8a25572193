"""LangChain's classes for OpenAI: a chat, and embeddings with and without ids of OpenAI's tokenizer."""

from __future__ import annotations

import importlib.util

import pytest

from tests.clients.conftest import RunPython
from tests.clients.test_sdks import EMBEDDING, MODEL
from tests.support.gateway import Gateway

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("langchain_openai") is None,
    reason="langchain-openai is not installed; `make check` installs it",
)


def test_langchain_chats_and_embeds_once_it_sends_texts(run_python: RunPython, gateway: Gateway) -> None:
    job = {"url": gateway.url, "key": gateway.key, "chat": MODEL, "embedding": EMBEDDING}
    found = run_python("ask_langchain.py", job)
    assert found["invoked"].startswith("[sandbox] Hello!") and found["streamed"] == found["invoked"]
    assert len(found["vectors"]) == 2 and found["vectors"][0] != found["vectors"][1]
    assert found["query"] == pytest.approx(found["vectors"][0], abs=1e-6)
    # By default it sends ids of OpenAI's tokenizer, which stand for other words in other models.
    assert "check_embedding_ctx_length=False" in found["advice"]
