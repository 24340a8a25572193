"""The test library `responses` can replace the transport."""

from __future__ import annotations

import gzip

import pytest
import responses

from app.errors import UpstreamRefused
from tests.services.inference.chat_core import client_for

BASE_URL = "http://provider.invalid/v1"
URL = BASE_URL + "/chat/completions"


@responses.activate
def test_a_registered_response_is_read_like_a_real_one() -> None:
    content = b"a compressed body"
    headers = {"Content-Encoding": "gzip", "X-Request-Id": "r-1"}
    responses.post(URL, body=gzip.compress(content), headers=headers)
    client = client_for(BASE_URL)
    for _ in range(3):
        response = client.post("/chat/completions", b"{}", stream=False)
        assert (response.status, response.request_id) == (200, "r-1")
        assert response.read(idle_timeout_s=10, deadline_s=1e12) == content and response.body.complete
        assert response.body.receive(0.001) == b""


@responses.activate
def test_repeated_headers_are_joined_as_in_a_real_response() -> None:
    responses.post(URL, body=b"{}", headers=[("Via", "one"), ("via", "two")])  # type: ignore[arg-type]
    response = client_for(BASE_URL).post("/chat/completions", b"{}", stream=False)
    assert response.headers["via"] == "one, two"
    response.body.close()


@responses.activate
def test_a_registered_error_is_an_error() -> None:
    responses.post(URL, json={"error": {"message": "No"}}, status=429, headers={"Retry-After": "7"})
    with pytest.raises(UpstreamRefused) as caught:
        client_for(BASE_URL).post("/chat/completions", b"{}", stream=False)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 7)
