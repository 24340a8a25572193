"""The same request as a command and as programs, to copy. The key stays in the environment of who runs it."""

from __future__ import annotations

import json
import shlex
from typing import Any


def write_calls(origin: str, path: str, body: dict[str, Any]) -> dict[str, str]:
    """Returns a title → the code that sends a request.

    Args:
        origin: the address of the gateway.
        path: of the endpoint.
        body: of the request.
    """
    text = json.dumps(body, ensure_ascii=False, indent=2)
    return {
        "curl": _write_curl(origin, path, text, is_stream=bool(body.get("stream"))),
        "Python": _write_python(origin, path, text),
        "Node": _write_node(origin, path, text),
    }


def _write_curl(origin: str, path: str, body: str, *, is_stream: bool) -> str:
    quoted = shlex.quote(body)
    return (
        f"curl {'-N ' if is_stream else ''}{shlex.quote(origin + path)} \\\n"
        '  -H "Authorization: Bearer $GATEWAY_API_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {quoted}"
    )


def _write_python(origin: str, path: str, body: str) -> str:
    return f"""import json, os, urllib.request

body = json.loads(r'''{body.replace("'''", "''" + chr(92) + "u0027")}''')
request = urllib.request.Request({json.dumps(origin + path)}, json.dumps(body).encode(), {{
    "Authorization": "Bearer " + os.environ["GATEWAY_API_KEY"],
    "Content-Type": "application/json",
}})
with urllib.request.urlopen(request) as response:
    for line in response:
        print(line.decode(), end="")"""


def _write_node(origin: str, path: str, body: str) -> str:
    return f"""const response = await fetch({json.dumps(origin + path)}, {{
  method: "POST",
  headers: {{
    Authorization: `Bearer ${{process.env.GATEWAY_API_KEY}}`,
    "Content-Type": "application/json",
  }},
  body: JSON.stringify({body}),
}});
for await (const piece of response.body) process.stdout.write(piece);"""
