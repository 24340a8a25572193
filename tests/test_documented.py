"""The commands in the documents work as printed: each curl with the real curl, and the README's Python."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from app.config import load_settings
from app.runtime import use_settings
from app.services.endpoints import ENDPOINTS
from tests.support.catalogs import provider_environment
from tests.support.chat import request
from tests.support.gateway import Gateway, base_settings, clean_environment
from tests.support.gateways import Gateways
from tests.support.postgres import Postgres
from tests.support.sandbox import Sandbox
from tests.support.soak import soak_only
from tests.support.user_keys import make_key
from tests.support.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
MODEL = "accounts/fireworks/models/deepseek-v3p1"
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

POST = """curl -X POST http://localhost:8000/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer your_gatewayz_api_key" \\
  -d '%s'"""
WITH_PROVIDER = """{
    "model": "accounts/fireworks/models/deepseek-v3p1",
    "provider": "fireworks",
    "messages": [
      {"role": "user", "content": "Hello!"}
    ]
  }"""
STREAMED = """{
    "model": "accounts/fireworks/models/deepseek-v3p1",
    "provider": "fireworks",
    "messages": [
      {"role": "user", "content": "Write a story"}
    ],
    "stream": true
  }"""
WITHOUT_PROVIDER = """{
    "model": "accounts/fireworks/models/deepseek-v3p1",
    "messages": [
      {"role": "user", "content": "Hello!"}
    ]
  }"""
DIRECT = """curl --request POST \\
  --url https://api.fireworks.ai/inference/v1/chat/completions \\
  -H 'Accept: application/json' \\
  -H 'Content-Type: application/json' \\
  -H 'Authorization: Bearer your_gatewayz_api_key' \\
  --data '{
    "model": "accounts/fireworks/models/deepseek-v3p1",
    "max_tokens": 20480,
    "top_p": 1,
    "top_k": 40,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "temperature": 0.6,
    "messages": [
        {
            "role": "user",
            "content": "Hello, how are you?"
        }
    ]
  }'"""


def run(gateway: Gateway, command: str, *options: str) -> str:
    """Runs a documented command in a shell, with the gateway's address and key in place of the printed ones."""
    command = command.replace("http://localhost:8000", gateway.url).replace("your_gatewayz_api_key", gateway.key)
    command = command.replace("https://api.fireworks.ai/inference", gateway.url)
    command = " ".join(["curl --silent --show-error --noproxy '*'", *options, command.removeprefix("curl ")])
    environment = clean_environment() | {"GATEWAY_API_KEY": gateway.key}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.parametrize("body", [WITH_PROVIDER, WITHOUT_PROVIDER], ids=["with provider", "auto-detected"])
def test_the_documented_chat_prints_a_completion(gateway: Gateway, body: str) -> None:
    completion = json.loads(run(gateway, POST % body))
    assert completion["object"] == "chat.completion" and completion["model"] == MODEL
    (choice,) = completion["choices"]
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"].startswith("[sandbox] Hello!")
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    assert completion["usage"]["total_tokens"] > completion["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("options", [[], ["-N"]], ids=["as printed", "unbuffered"])
def test_the_documented_stream_prints_events_up_to_done(gateway: Gateway, options: list[str]) -> None:
    events = [event for event in run(gateway, POST % STREAMED, *options).split("\n\n") if event]
    assert events[-1] == "data: [DONE]" and len(events) > 3
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["choices"] for chunk in chunks)
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text.startswith("[sandbox]") and chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_the_request_documented_for_fireworks_itself_works_here_too(gateway: Gateway) -> None:
    completion = json.loads(run(gateway, DIRECT))
    assert "Hello, how are you?" in completion["choices"][0]["message"]["content"]


def test_the_documented_headers_are_on_an_answer(gateway: Gateway) -> None:
    headers = run(gateway, POST % WITH_PROVIDER, "--dump-header - --output /dev/null").lower()
    assert headers.startswith("http/1.1 200") and "content-type: application/json" in headers
    assert "x-gateway-provider: fireworks" in headers and f"x-gateway-model: {MODEL}" in headers
    assert re.search(r"x-request-id: [0-9a-f-]{36}", headers)


def test_the_documented_catalog_lists_fireworks_models(gateway: Gateway) -> None:
    listed = json.loads(run(gateway, "curl http://localhost:8000/api/catalog/models?gateway=fireworks"))
    assert MODEL in [model["id"] for model in listed["data"]]


def test_the_documented_model_is_found_by_its_short_path(gateway: Gateway) -> None:
    url = "http://localhost:8000/api/catalog/model/accounts/fireworks/deepseek-v3p1?gateway=fireworks"
    answer: dict[str, Any] = json.loads(run(gateway, f"curl {url}"))
    assert (answer.get("data") or answer)["id"] == MODEL


@pytest.fixture(scope="module")
def fresh_gateway(gateways: Gateways, postgres: Postgres) -> Iterator[Gateway]:
    """A gateway with the project's default settings, and a database without keys."""
    url = postgres.create_migrated_database()
    with gateways.running(url, {}) as gateway:
        yield gateway
    gateways.after_stops(lambda: postgres.drop_database(url))


@soak_only("services/test_fireworks_client.py::test_a_missing_key_is_named_before_anything_is_sent")
def test_the_documented_error_is_word_for_word(fresh_gateway: Gateway) -> None:
    for body in (WITH_PROVIDER, WITHOUT_PROVIDER, STREAMED):
        error = json.loads(run(fresh_gateway, POST % body))["error"]
        assert (error["message"], error["type"]) == ("Fireworks API key not configured", "configuration_error")
        assert error["param"] == "FIREWORKS_API_KEY"
    head = run(fresh_gateway, POST % WITH_PROVIDER, "--dump-header - --output /dev/null").lower()
    assert head.startswith("http/1.1 503") and "x-should-retry: false" in head


def blocks(language: str) -> list[str]:
    """Returns the code blocks in a language from the README and the page of the endpoints."""
    text = README + (ROOT / "docs" / "endpoints.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def find_curls(page: Path) -> list[str]:
    """Returns the curl commands in the blocks of a page, each on one or several lines."""
    found: list[str] = []
    for block in re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE):
        command = ""
        for line in block.splitlines():
            command = f"{command}\n{line}" if command else line.strip()
            if not command.startswith("curl ") or (not line.endswith("\\") and is_whole(command)):
                found += [command] if command.startswith("curl ") else []
                command = ""
    return found


def is_whole(command: str) -> bool:
    """Returns whether every quote of a command is closed."""
    try:
        return bool(shlex.split(command))
    except ValueError:
        return False


def _has_lists(gateway: Gateway) -> bool:
    catalogs = request("GET", f"{gateway.url}/ready", headers=gateway.headers).json["catalogs"]
    return len(catalogs) == 4 and all(state["models"] for state in catalogs.values())


@pytest.fixture(scope="module")
def documented(
    gateways: Gateways, postgres: Postgres, migrated_template: str, sandbox: Sandbox
) -> Iterator[tuple[Gateway, str]]:
    """A gateway with its own database, in which the pages' commands make keys and groups, and a user's key."""
    url = postgres.create_database(template=migrated_template)
    with gateways.running(url, provider_environment(sandbox.url, key="sandbox")) as gateway:
        wait_until(lambda: _has_lists(gateway), what="the four lists of models")
        yield gateway, make_key(url, "alice")
    gateways.after_stops(lambda: postgres.drop_database(url))


@pytest.mark.parametrize("path", [endpoint.path for endpoint in ENDPOINTS if endpoint.path != "/v2/rerank"])
def test_the_readmes_curl_of_each_endpoint_gets_an_answer(gateway: Gateway, path: str) -> None:
    command, *_ = [block for block in blocks("bash") if f"http://localhost:8000{path} " in block]
    answer = json.loads(run(gateway, command))
    assert answer.get("error") is None and answer.keys() & {"choices", "data", "results", "content", "output"}
    if path == "/v1/chat/completions":
        assert answer["choices"][0]["message"]["content"].startswith("[sandbox]")


def test_the_readmes_message_is_answered(gateway: Gateway) -> None:
    (command,) = [block for block in blocks("bash") if "/v1/messages" in block]
    message = json.loads(run(gateway, command))
    assert (message["type"], message["stop_reason"]) == ("message", "end_turn")
    assert message["content"][0]["text"].startswith("[sandbox] Hello!")


def test_the_readmes_response_is_answered(gateway: Gateway) -> None:
    (command,) = [block for block in blocks("bash") if "/v1/responses" in block]
    response = json.loads(run(gateway, command))
    assert (response["object"], response["status"]) == ("response", "completed")
    assert response["output"][-1]["content"][0]["text"].startswith("[sandbox] Hello!")


@soak_only("clients/test_sdks.py::test_an_answer_and_its_stream_are_complete_and_the_same")
def test_the_readmes_python_prints_a_story(gateway: Gateway, tmp_path: Path) -> None:
    (lines,) = [block for block in blocks("python") if "OpenAI(" in block]
    lines = lines.replace("http://localhost:8000", gateway.url).replace("your gateway key", gateway.key)
    script = tmp_path / "readme.py"
    script.write_text(lines)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("[sandbox]"), done.stderr


def find_commands(heading: str) -> list[str]:
    """Returns the blocks of commands below a heading of docs/limits.md."""
    document = (Path(__file__).resolve().parent.parent / "docs" / "limits.md").read_text()
    section = document.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, re.DOTALL)


def test_a_key_that_is_given_away_as_documented_works(
    gateway: Gateway, session_database_url: str, tmp_path: Path
) -> None:
    command, curls = find_commands("Give a key away")
    name = f"dave-{secrets.token_hex(4)}"  # Other tests may have a dave too.
    runner = create_app(load_settings(base_settings(tmp_path, session_database_url))).test_cli_runner()
    made = runner.invoke(args=shlex.split(command.replace("dave", name))[1:])
    use_settings(None)
    assert made.exit_code == 0, made.output
    key = made.output.partition("\n")[0]
    chat, own = (json.loads(run(gateway, curl.replace("$KEY", key))) for curl in re.split(r"\n(?=curl)", curls.strip()))
    assert chat["choices"][0]["message"]["content"].startswith("[sandbox] Hello!")
    (again,) = find_commands("What a key sees of itself")
    for shown in (own, json.loads(run(gateway, again.replace("$GATEWAY_API_KEY", key)))):
        assert (shown["data"]["name"], shown["data"]["limit"], shown["data"]["limit_reset"]) == (name, 20, "monthly")
        assert shown["data"]["rates"]["requests_per_minute"] == 60


@soak_only("test_documented.py::test_a_key_that_is_given_away_as_documented_works")
def test_the_curls_for_keys_and_limits_work_in_order(documented: tuple[Gateway, str]) -> None:
    gateway, _ = documented
    commands = "".join(find_commands("HTTP"))
    answers: list[Any] = []
    key_id = ""
    for command in re.split(r"\n(?=curl)", commands.strip()):
        answers.append(json.loads(run(gateway, command.replace("KEY_ID", key_id))))
        assert "error" not in answers[-1], (command, answers[-1])
        key_id = answers[-1]["data"]["id"] if "key" in answers[-1] and not key_id else key_id
    _, made, listed, changed, rotated, revoked, _, holders, renamed, limits, audited = answers
    assert [each["name"] for each in holders["data"]] == ["bob"] and renamed["data"]["name"] == "Bob B."
    assert made["key"].startswith(f"gw_{key_id}_") and listed["data"] == [made["data"]]
    assert (changed["data"]["concurrent"], changed["data"]["requests_per_minute"]) == (8, None)
    assert rotated["data"]["holder"] == "bob" and revoked["data"]["revoked_at"]
    assert limits["data"]["max_output_tokens"] == 32000
    assert [event["action"] for event in audited["data"]] == ["key.revoke", "key.rotate", "key.create"]


@soak_only("test_documented.py::test_the_readmes_curl_of_each_endpoint_gets_an_answer")
def test_every_other_curl_of_the_pages_works(documented: tuple[Gateway, str], tmp_path: Path) -> None:
    gateway, key = documented
    done = json.loads(run(gateway, POST % WITH_PROVIDER, "--dump-header", str(tmp_path / "head")))
    assert done["object"] == "chat.completion"
    (request_id,) = re.findall(r"x-request-id: (\S+)", (tmp_path / "head").read_text().lower())
    lookup = f"curl {gateway.url}/api/activity/{request_id} -H 'Authorization: Bearer {gateway.key}'"
    wait_until(lambda: "data" in json.loads(run(gateway, lookup)), what="the record")
    # The commands of the section that must be run in order were run above.
    ordered = {command for block in find_commands("HTTP") for command in re.split(r"\n(?=curl)", block.strip())}
    commands = [(page.name, command) for page in PAGES for command in find_curls(page) if command not in ordered]
    assert len(commands) > 20 and not any("KEY_ID" in command for _, command in commands)
    for page, command in commands:
        command = re.sub(r"(?<=/api/activity/)[0-9a-f]{8}-[0-9a-f-]{27}", request_id, command).replace("$KEY", key)
        try:
            run(gateway, command.replace("> ", f"> {tmp_path}/"), "--fail-with-body")
        except AssertionError as error:
            raise AssertionError(f"{page}: {command}: {error}") from error
