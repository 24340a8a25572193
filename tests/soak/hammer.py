"""A client in a separate process, which repeats requests with some Idempotency-Keys until each has a final answer.

    python hammer.py PORT GATEWAY_KEY MODEL COUNT

It goes through the keys repeatedly, like clients that retry after anything but a final answer: a broken connection, a
409 or a 503. It prints, as JSON, key → [status, code of the error or null, SHA-256 of the body].
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
import time

_TIMEOUT_S = 60.0


def main(port: int, gateway_key: str, model: str, count: int) -> None:
    """Repeats the requests, and prints their results."""
    final: dict[str, tuple[int, str | None, str]] = {}
    while len(final) < count:
        for number in range(count):
            name = f"{model}-{number}"
            if name not in final and (answer := _ask(port, gateway_key, model, name, number)) is not None:
                final[name] = answer
        time.sleep(0.1)
    print(json.dumps(final))


def _ask(port: int, gateway_key: str, model: str, name: str, number: int) -> tuple[int, str | None, str] | None:
    body = {"model": f"{model}-{number}", "messages": [{"role": "user", "content": name}], "stream": number % 2 == 1}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    headers = {"Authorization": f"Bearer {gateway_key}", "Idempotency-Key": name}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    code = json.loads(content)["error"]["code"] if response.status != 200 else None
    if response.status in (409, 503):
        return None
    return response.status, code, hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
