"""The client for the sandbox's tests, which sends plain requests over a real socket."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests

KEY = "fw_test"
FIREWORKS = "/inference/v1"
PREFIX = "accounts/fireworks/models/"
PLAIN = PREFIX + "deepseek-v3p1"
USER = [{"role": "user", "content": "Hello!"}]
# Long, because it only bounds a hang.
TIMEOUT_S = 10.0


@dataclass
class Server:
    """A running sandbox: its address and its process."""

    url: str
    process: subprocess.Popen[str]

    def get(self, path: str, key: str | None = KEY, **query: Any) -> requests.Response:
        """GET a path."""
        return requests.get(self.url + path, params=query, headers=make_headers(key), timeout=TIMEOUT_S)

    def chat(self, model: str = PLAIN, base: str = FIREWORKS, key: str | None = KEY, **body: Any) -> requests.Response:
        """POST a chat request with the message "Hello!" unless the body has `messages`."""
        return requests.post(
            f"{self.url}{base}/chat/completions",
            json={"model": model, "messages": USER} | body,
            headers=make_headers(key),
            timeout=TIMEOUT_S,
            stream=bool(body.get("stream")),
        )

    def misbehave(self, name: str, **body: Any) -> requests.Response:
        """POST a chat request to one of Fireworks' models that misbehave."""
        return self.chat(PREFIX + name, **body)

    def stream(self, model: str = PLAIN, base: str = FIREWORKS, **body: Any) -> list[Any]:
        """POST a streamed chat request and return all of its events, parsed."""
        with self.chat(model, base, stream=True, **body) as response:
            assert response.status_code == 200, response.text
            return parse_events(response.content)

    def get_stats(self) -> dict[str, Any]:
        """Returns the sandbox's counters."""
        return dict(self.get("/sandbox/stats").json())


def make_headers(key: str | None) -> dict[str, str]:
    """Returns request headers with a user agent that every provider accepts."""
    headers = {"User-Agent": "sandbox-tests/1"}
    return headers | ({"Authorization": f"Bearer {key}"} if key is not None else {})


def parse_events(body: bytes) -> list[Any]:
    """Returns the data of each event: parsed JSON, or the text "[DONE]"."""
    events = []
    for block in body.decode().split("\n\n"):
        data = block.removeprefix("data: ")
        if data != block:
            events.append(data if data == "[DONE]" else json.loads(data))
    return events


def join_text(events: list[Any], key: str = "content", index: int = 0) -> str:
    """Returns the joined texts of a key in the deltas of a choice."""
    choices = [choice for event in events if event != "[DONE]" for choice in (event or {}).get("choices", [])]
    return "".join(choice["delta"].get(key) or "" for choice in choices if choice["index"] == index)


@contextmanager
def run_sandbox(*options: str) -> Iterator[Server]:
    """Runs `python -m app.sandbox` on a free port for the length of a with block."""
    command = [sys.executable, "-m", "app.sandbox", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(read_url(process), process)
        finally:
            process.kill()


def read_url(process: subprocess.Popen[str]) -> str:
    """Reads the line that a sandbox prints when it accepts connections, and returns the address in it."""
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.fullmatch(r"sandbox listening on (http://127\.0\.0\.1:\d+)\n", line)
    assert match, f"unexpected first line: {line!r}"
    return match[1]
