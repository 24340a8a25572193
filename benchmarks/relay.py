"""A route that relays embeddings requests and their responses unparsed, as the baseline of the gateway's overhead.

It uses the gateway's worker class and its client for providers, but checks no key, parses no body and records nothing.
"""

from __future__ import annotations

import os
import time

from flask import Flask, Response, request

from app.config import load_settings
from app.upstream import UpstreamClient

_LONGEST_S = 60.0

app = Flask(__name__, static_folder=None)
_settings = load_settings(os.environ)
_client = UpstreamClient(
    title="the provider",
    base_url=_settings.fireworks_base_url,
    api_keys=["fw_REPLACE_ME"],
    key_setting="FIREWORKS_API_KEY",
    settings=_settings,
)


@app.post("/v1/embeddings")
def relay() -> Response:
    """Returns the provider's response to the same body."""
    content = request.environ["wsgi.input"].read(request.content_length)
    response = _client.post("/embeddings", content, stream=False)
    body = response.read(idle_timeout_s=_LONGEST_S, deadline_s=time.monotonic() + _LONGEST_S)
    return Response(body, content_type="application/json")


@app.get("/health")
def health() -> Response:
    """Returns 200 once the server runs."""
    return Response(b"{}", content_type="application/json")
