"""A bare Flask route on the same gunicorn and worker class: the upper bound for the gateway's framework.

It calls no provider, checks no key and records nothing; it reads the body and responds like a provider.
"""

from __future__ import annotations

from flask import Flask, Response, request

_COMPLETION = (
    b'{"id":"chatcmpl-6b2f0e1c9a","object":"chat.completion","created":1763800000,"choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"A gateway stands between programs and the models that they ask. It checks who is '
    b'calling, passes the question on, and writes down what the answer cost."},"finish_reason":"stop"}],"usage":'
    b'{"prompt_tokens":12,"completion_tokens":38,"total_tokens":50}}'
)

app = Flask(__name__, static_folder=None)


@app.post("/v1/chat/completions")
def complete() -> Response:
    """Returns the same completion for any body."""
    request.get_data(cache=False)
    return Response(_COMPLETION, content_type="application/json")


@app.get("/health")
def health() -> Response:
    """Returns 200 once the server runs."""
    return Response(b"{}", content_type="application/json")
