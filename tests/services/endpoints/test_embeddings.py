"""Vectors reach the client in the requested form, with the same numbers; anything but a vector is an error."""

from __future__ import annotations

import json
import struct
from array import array
from base64 import b64decode, b64encode
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest, UpstreamError
from app.services.endpoints import ENDPOINTS, Usage
from app.services.endpoints import vectors as subject
from app.services.inference.validation import validate_body
from tests.support.sdks import openai
from tests.support.soak import examples

(EMBEDDINGS,) = [endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/embeddings"]
# Every 32-bit floating-point number, including the smallest and minus zero.
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
VECTORS = st.lists(st.lists(NUMBERS, min_size=1, max_size=9), min_size=1, max_size=5)
USAGE = {"prompt_tokens": 7, "total_tokens": 7}


def pack(vector: list[float]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def unpack(text: str) -> list[float]:
    data = b64decode(text, validate=True)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def make_content(vectors: list[Any], **form: Any) -> bytes:
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    return json.dumps({"object": "list", "data": data, "model": "m", "usage": USAGE}, **form).encode()


def convert(content: bytes, inputs: int, encoding_format: str | None) -> bytes:
    """Returns the client's content for a provider's content."""
    body = {"model": "m", "input": ["x"] * inputs, "encoding_format": encoding_format}
    response = EMBEDDINGS.decode(content)
    EMBEDDINGS.summarize(response)
    assert EMBEDDINGS.encode is not None
    return EMBEDDINGS.encode(EMBEDDINGS.normalise(response), validate_body(body, EMBEDDINGS.body))


@settings(max_examples=examples(100), deadline=None)
@given(VECTORS, st.booleans(), st.sampled_from(["float", "base64", None]), st.sampled_from([None, 1]))
def test_numbers_are_the_same_in_both_forms(
    vectors: list[list[float]], is_sent_packed: bool, asked: str | None, indent: int | None
) -> None:
    content = make_content([pack(vector) if is_sent_packed else vector for vector in vectors], indent=indent)
    got = json.loads(convert(content, len(vectors), asked))
    openai.types.CreateEmbeddingResponse.model_validate(got if asked != "base64" else got | {"data": []}, strict=True)
    seen = [unpack(item["embedding"]) if asked == "base64" else item["embedding"] for item in got["data"]]
    # Compared as bits, because 0.0 equals -0.0.
    assert [pack(vector) for vector in seen] == [pack(vector) for vector in vectors]
    assert {name: got[name] for name in ("object", "model", "usage")} == {
        "object": "list",
        "model": "m",
        "usage": USAGE,
    }
    assert [item["index"] for item in got["data"]] == list(range(len(vectors)))


@settings(max_examples=examples(50), deadline=None)
@given(VECTORS, st.booleans(), st.sampled_from([None, 1]))
def test_what_has_the_right_form_passes_byte_for_byte(
    vectors: list[list[float]], is_packed: bool, indent: int | None
) -> None:
    content = make_content([pack(vector) if is_packed else vector for vector in vectors], indent=indent)
    assert convert(content, len(vectors), "base64" if is_packed else None) is not None
    assert convert(content, len(vectors), "base64" if is_packed else None) == content


def test_texts_that_look_like_a_vector_are_texts() -> None:
    tricky = {"note": 'the "embedding": [1, 2] of "#0"', "object": "embedding", "index": 0, "embedding": [0.5]}
    content = json.dumps({"data": [tricky], "model": '"embedding"', "embedding": "#0"}).encode()
    got = json.loads(convert(content, 1, "base64"))
    assert unpack(got["data"][0]["embedding"]) == [0.5] and got["data"][0]["note"] == tricky["note"]
    assert (got["model"], got["object"], got["usage"]) == ('"embedding"', "list", None)


def test_base64_with_escaped_slashes_is_read() -> None:
    text = pack([float(2**at) for at in range(-60, 60)])
    escaped = make_content([text]).replace(b"/", b"\\/")
    assert json.loads(convert(escaped, 1, "float"))["data"][0]["embedding"] == unpack(text)
    assert json.loads(convert(escaped, 1, "base64"))["data"][0]["embedding"] == text


def test_omitted_fields_are_added() -> None:
    got = json.loads(convert(b'{"data":[{"embedding":[1]},{"embedding":[2]}]}', 2, None))
    assert got == {
        "object": "list",
        "usage": None,
        "data": [{"object": "embedding", "index": at, "embedding": [at + 1]} for at in (0, 1)],
    }


def test_an_odd_answer_is_written_as_strict_json() -> None:
    content = make_content([[0.5]]).replace(b'"prompt_tokens": 7', b'"prompt_tokens": NaN')
    assert json.loads(convert(content, 1, None))["usage"] == {"prompt_tokens": None, "total_tokens": 7}


@pytest.mark.parametrize("vector", ["[NaN]", "[1e400]", "[1,null]", '["a"]', "[[1]]", "[]", "[1.2.3]"])
def test_what_is_no_list_of_numbers_is_never_packed(vector: str) -> None:
    with pytest.raises(ValueError):
        convert(b'{"data":[{"embedding":[1]},{"embedding":%b}]}' % vector.encode(), 2, "base64")


@pytest.mark.parametrize(
    "vector", ['""', '"AAA"', '"AADAfwAAgD8="', '"no base64"', "[NaN]", "[1,null]", '["a"]', "[[1]]"]
)
def test_what_holds_no_numbers_is_never_sent_as_numbers(vector: str) -> None:
    with pytest.raises(ValueError):  # "AADAfw…" is NaN.
        convert(b'{"data":[{"embedding":"AACAPw=="},{"embedding":%b}]}' % vector.encode(), 2, "float")


def test_a_vector_too_large_for_32_bits_is_none() -> None:
    with pytest.raises(ValueError, match="too large for 32 bits"):
        convert(make_content([[1e39]]), 1, "base64")


@pytest.mark.parametrize("content", [b'{"data":[]}', b'{"data":[{}]}', b'{"data":[5]}', b'{"data":{}}', b"{}", b"[]"])
def test_an_answer_without_vectors_is_none(content: bytes) -> None:
    with pytest.raises(ValueError):
        EMBEDDINGS.summarize(EMBEDDINGS.decode(content))


def test_a_vector_too_few_is_an_error_of_the_provider() -> None:
    with pytest.raises(UpstreamError, match="1 embeddings for 2 inputs") as caught:
        convert(make_content([[1.0]]), 2, None)
    assert caught.value.should_retry is False


def test_usage_has_no_completion_tokens_and_says_so() -> None:
    for usage, expected in ((USAGE, Usage(7, 0)), ({"total_tokens": 7}, Usage(7, 0)), ({}, None), (None, None)):
        content = json.dumps({"data": [{"embedding": [1]}], "usage": usage}).encode()
        assert EMBEDDINGS.summarize(EMBEDDINGS.decode(content)).usage == expected


def test_conversion_pauses_often_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("app.yielding.time", SimpleNamespace(sleep=pauses.append))
    vector = array("f", range(4096)).tolist()
    convert(make_content([vector] * 100), 100, "base64")
    size = len(json.dumps(vector))
    assert len(pauses) >= 100 * size // subject._SLICE_BYTES - 1
    pauses.clear()
    convert(make_content([vector] * 100), 100, "float")
    assert pauses == []


@pytest.mark.parametrize("value", ["a", ["a", "b"], [{"Query": "a"}, "b"], {"Query": "a"}])
def test_texts_and_objects_are_accepted(value: Any) -> None:
    body = {"model": "m", "input": value}
    validate_body(body, EMBEDDINGS.body)
    assert EMBEDDINGS.estimate_prompt_tokens(body) >= 1


@pytest.mark.parametrize("value", [[1, 2], [[1, 2], [3]]])
def test_ids_of_tokens_get_advice_unless_they_are_meant(value: Any) -> None:
    with pytest.raises(BadRequest, match="check_embedding_ctx_length=False") as caught:
        validate_body({"model": "m", "input": value}, EMBEDDINGS.body)
    assert (caught.value.param, caught.value.code) == ("input", "token_ids")
    validate_body({"model": "m", "input": value, "token_ids": True}, EMBEDDINGS.body)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": []}, "be a string, a list of strings"),
        ({"input": None}, "`input` is required"),
        ({"input": 5}, "be a string, a list of strings"),
        ({"encoding_format": "int8"}, '"float" or "base64"'),
        ({"dimensions": 0}, "whole number of at least 1"),
    ],
)
def test_other_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        validate_body({"model": "m", "input": "a"} | change, EMBEDDINGS.body)
