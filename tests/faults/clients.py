"""Three clients that report their results in words: http.client, the official Python SDK, and curl."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.faults.nginx import Door
from tests.support.chat import chat_body
from tests.support.sdks import openai

# Bounds a hang; no fault here takes half of it.
TIMEOUT_S = 30.0

NO_CURL = "" if shutil.which("curl") else "curl is not on PATH, so what it says is not tested"

_CURL_CODES = {0: "0", 18: "18 (partial)", 22: "22 (HTTP error)", 52: "52 (nothing)", 56: "56 (reset)"}


@dataclass
class Met:
    """A response as http.client received it.

    Attributes:
        ended: "complete", "unfinished" (the transfer's end is missing) or "reset".
        took_s: the time from the request to that end.
        status: None when there was no answer at all.
    """

    status: int | None
    headers: dict[str, str]
    body: bytes
    ended: str
    took_s: float

    @property
    def events(self) -> list[bytes]:
        """The data of each event, in order."""
        parts = self.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n")
        return [part.removeprefix(b"data: ") for part in parts if part.startswith(b"data:")]

    @property
    def heartbeats(self) -> int:
        """The number of the gateway's heartbeat comments."""
        return self.body.count(b": keep-alive\n\n")

    @property
    def error(self) -> dict[str, Any]:
        """The error of the body or of the last event; {} without one."""
        last = self.events[-1] if self.events else self.body
        if not last.startswith(b"{"):
            return {}
        found = json.loads(last).get("error") or {}
        return found if isinstance(found, dict) else {}

    @property
    def words(self) -> str:
        """The response in the words of the table."""
        if self.status is None:
            return f"no answer ({self.ended})"
        name = self.error.get("code") or self.error.get("type")
        if "event-stream" not in self.headers.get("content-type", ""):
            return f"{self.status} `{name}`" if self.error else f"{self.status}, {self.ended}"
        return ", ".join([*self._passed(), self.ended])

    def _passed(self) -> list[str]:
        done = self.events[-1:] == [b"[DONE]"]
        count = len(self.events) - bool(self.error) - done
        words = [f"{count} event{'' if count == 1 else 's'}"] if count else []
        if self.error:
            name = self.error.get("code") or self.error.get("type")
            words.append(f"error event `{name}`")
        return words + (["`[DONE]`"] if done else [])


def meet(door: Door, body: dict[str, Any], *, key: str | None = None, path: str = "/v1/chat/completions") -> Met:
    """Sends a request, by default for a chat, and reads the response until it ends, properly or not."""
    started_s = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=TIMEOUT_S)
    status, headers, pieces, ended = None, {}, [], "complete"
    try:
        sent = {"Authorization": f"Bearer {key or door.key}", "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), sent)
        answer = connection.getresponse()
        status, headers = answer.status, {name.lower(): value for name, value in answer.getheaders()}
        while piece := answer.read1(65_536):
            pieces.append(piece)
        if answer.length:
            ended = "unfinished"
    except http.client.RemoteDisconnected:
        ended = "unfinished"
    except http.client.HTTPException:
        ended = "unfinished"
    except ConnectionResetError:
        ended = "reset"
    finally:
        connection.close()
    return Met(status, headers, b"".join(pieces), ended, time.monotonic() - started_s)


def ask_sdk(door: Door, model: str, *, stream: bool, provider: str | None = None) -> str:
    """Asks with the official SDK, its own retries off, and returns "completes" or what it raised."""
    more: dict[str, Any] = {"extra_body": {"provider": provider}} if provider else {}
    try:
        answer: Any = make_openai(door).chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hello!"}], stream=stream, **more
        )
        for _ in answer if stream else ():
            pass
    except openai.APIError as error:
        code = getattr(error, "code", None) or getattr(error, "type", None)
        return f"raises {type(error).__name__}" + (f" `{code}`" if code else "")
    return "completes"


@cache
def make_openai(door: Door) -> openai.OpenAI:
    """Returns an OpenAI client for a door, without retries."""
    # Shared, because each client reads the system's certificates, which takes longer than most faults.
    return openai.OpenAI(base_url=f"{door.url}/v1", api_key=door.key, max_retries=0, timeout=TIMEOUT_S)


def ask_curl(door: Door, model: str, *, stream: bool, provider: str | None = None) -> str:
    """Asks with curl and returns its exit code, with a word for it."""
    more: dict[str, Any] = {"provider": provider} if provider else {}
    command = ["curl", "-sN", "--fail-with-body", "--max-time", str(TIMEOUT_S), "-o", "/dev/null"]
    command += ["-H", f"Authorization: Bearer {door.key}", "-H", "Content-Type: application/json"]
    command += ["-d", json.dumps(chat_body(model, stream=stream, **more)), f"{door.url}/v1/chat/completions"]
    code = subprocess.run(command, capture_output=True, check=False).returncode
    return _CURL_CODES.get(code, str(code))
