"""Embeddings at the sandbox: deterministic, similar for similar texts, and refused where the providers refuse them."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from app.sandbox.vectors import get_similarity, make_vector
from tests.sandbox.client import FIREWORKS, KEY, PREFIX, TIMEOUT_S, Server, make_headers

QWEN = PREFIX + "qwen3-embedding-8b"
DEEPINFRA = ("acme-labs/Embedding-1", "/deepinfra/v1/openai")
FEATHERLESS = ("sandbox/sandbox-crlf", "/featherless/v1")


def embed(server: Server, model: str = QWEN, base: str = FIREWORKS, **body: Any) -> requests.Response:
    """POSTs a request for embeddings of "Hello" unless the body has `input`."""
    body = {"model": model, "input": "Hello"} | body
    return requests.post(f"{server.url}{base}/embeddings", json=body, headers=make_headers(KEY), timeout=TIMEOUT_S)


def test_the_same_text_has_the_same_vector_in_each_form_and_at_each_place(server: Server) -> None:
    vectors = [item["embedding"] for item in embed(server, input=["a b", "c", "a b"]).json()["data"]]
    assert vectors[0] == vectors[2] != vectors[1] and len(vectors[0]) == 4096
    assert embed(server, input={"q": "b"}, prompt_template="a {q}").json()["data"][0]["embedding"] == vectors[0]
    packed = [embed(server, input=["a b"], encoding_format="base64").json()["data"][0]["embedding"] for _ in range(2)]
    assert isinstance(packed[0], str) and packed[0] == packed[1]


def test_similarity_is_what_texts_have_in_common() -> None:
    query = "how do I paint a wooden fence"
    texts = ["Painting wooden fences", "how to paint a fence", "the price of gold fell"]
    scores = [get_similarity(query, text) for text in texts]
    assert min(scores[:2]) > 0.5 > 0.2 > scores[2] and get_similarity(query, query) == pytest.approx(1)
    assert get_similarity(query, "") == 0.0
    one, other = (make_vector("m", text, 4096) for text in (query, texts[1]))
    assert sum(a * b for a, b in zip(one, other, strict=True)) == pytest.approx(scores[1], abs=0.1)


@pytest.mark.parametrize(
    ("text", "closer", "further"),
    [
        ("The cat sat on the mat", "A cat was sitting on a mat", "the"),
        ("The cat sat on the mat", "A cat was sitting on a mat", "The man is on the way to the bus"),
        ("How do I reset my password?", "Resetting passwords", "How do I do it, if I do?"),
        ("She studied the cities of Europe", "studying a European city", "the history of the game"),
        ("Prices are falling", "the price fell", "There are two of them, and they are here"),
    ],
)
def test_words_of_every_text_count_less_than_others_in_any_form(text: str, closer: str, further: str) -> None:
    scores = [get_similarity(text, other) for other in (closer, further)]
    assert scores[0] > 2 * scores[1], scores
    one, *others = (make_vector("m", each, 4096) for each in (text, closer, further))
    first, second = (sum(a * b for a, b in zip(one, other, strict=True)) for other in others)
    assert first > second
    assert get_similarity("painting", "paint") < 0.95  # Another form of the same word is another text.


@pytest.mark.parametrize("length", [1, 2, 3, 8, 1024])
def test_no_vector_is_zero(length: int) -> None:
    texts = ["", " ", "!?", "…", "日本", *(f"{letter}{number}" for letter in "abcxyz" for number in range(50))]
    for text in texts:
        vector = make_vector("m", text, length)
        assert len(vector) == length and sum(value * value for value in vector) == pytest.approx(1), text
        assert vector == make_vector("m", text, length)


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (QWEN, {"user": "me"}, "Extra inputs are not permitted, field: 'user'"),
        ("thenlper/gte-base", {"dimensions": 64}, "thenlper/gte-base is not resizable"),
        (PREFIX + "kimi-k3", {}, "embedding is not supported"),
        (QWEN, {"encoding_format": "int8"}, "Input should be"),
        (QWEN, {"input": None}, "Input should be"),
        (QWEN, {"input": [{"q": "b"}]}, "Field required for objects as input, field: 'prompt_template'"),
        (QWEN, {"dimensions": 4097}, "less than or equal to 4096, field: 'dimensions', value: 4097"),
    ],
)
def test_fireworks_says_what_is_wrong(server: Server, model: str, change: dict[str, Any], message: str) -> None:
    answer = embed(server, model, **change)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]


def test_the_other_providers_have_rules_of_their_own(server: Server) -> None:
    assert embed(server, *DEEPINFRA, encoding_format=None).status_code == 400
    assert embed(server, *DEEPINFRA, dimensions=31).status_code == 400
    assert embed(server, *DEEPINFRA, input=[[1]]).status_code == 400
    assert embed(server, *FEATHERLESS, dimensions=1025).status_code == 400
    assert embed(server, *FEATHERLESS, input={"q": "b"}).status_code == 400
    assert any(embed(server, *DEEPINFRA, input="", dimensions=32).json()["data"][0]["embedding"])
    padded = embed(server, *DEEPINFRA, dimensions=1100).json()["data"][0]["embedding"]
    assert len(padded) == 1100 and set(padded[1024:]) == {0.0}
    assert isinstance(embed(server, *DEEPINFRA, encoding_format="base64").json()["data"][0]["embedding"], str)
    assert isinstance(embed(server, *FEATHERLESS, encoding_format="base64").json()["data"][0]["embedding"], list)
    assert embed(server, "x", "/chutes/v1").status_code == 404


def test_the_models_that_misbehave_do_so_here_too(server: Server) -> None:
    assert embed(server, PREFIX + "sandbox-503").status_code == 503
    assert embed(server, PREFIX + "sandbox-garbage").content.startswith(b"<<<")
    with pytest.raises(requests.RequestException):
        embed(server, PREFIX + "sandbox-cut-after-3")
