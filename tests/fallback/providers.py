"""Three providers that one scripted upstream plays, their lists of models, and requests that name several of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.fallback.failures import SETTINGS
from tests.faults.scripts import answer, stream
from tests.support.activity_tables import ActivityTables
from tests.support.answers import usage_of, whole_stream
from tests.support.catalogs import BASE_PATHS, fireworks_rows, list_answer, provider_environment, root_of
from tests.support.chat import HELLO, PREFIX, Seen, request
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.request_reader import SeenRequest
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script
from tests.support.soak import FULL
from tests.support.waiting import wait_until

PROVIDERS = ("fireworks", "deepinfra", "chutes")

# Each request has models of its own, so that its failures do not change the routing of others.
MODELS = 6_000 if FULL else 1_200

# The context length of each provider's models, in tokens.
CONTEXTS = {"fireworks": 8_192, "deepinfra": 4_096, "chutes": 131_072}

# The prices of each provider's models in PRICE_FILE: prompt and completion, in USD per million tokens.
PRICES = {"fireworks": (1, 2), "deepinfra": (3, 5), "chutes": (7, 11)}

# The prompt in the form of each endpoint.
PROMPTS: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/messages": {"messages": HELLO, "max_tokens": 50},
    "/v1/responses": {"input": "Hello!"},
    "/v1/embeddings": {"input": "Hello!"},
}
_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
_VECTOR = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}


def get_model(provider: str, number: int) -> str:
    """Returns the id of a provider's model for the request of this number."""
    return f"{PREFIX if provider == 'fireworks' else provider + '-ai/'}m{number}-{provider}"


def serve(*, is_stream: bool, path: str = "/v1/chat/completions") -> Script:
    """Returns the script of a good answer of 11 and 3 tokens, on a connection that serves no second request."""
    if is_stream:
        return stream(whole_stream("one ", "two"))
    if path == "/v1/embeddings":
        return answer({"object": "list", "data": [_VECTOR], "usage": {"prompt_tokens": 14, "total_tokens": 14}})
    return answer({"id": "chatcmpl-1", "object": "chat.completion", "choices": [_CHOICE], "usage": usage_of(11, 3)})


def get_cost(provider: str) -> Decimal:
    """Returns the cost of a good answer of chat at a provider, in USD."""
    prompt, completion = PRICES[provider]
    return Decimal(11 * prompt + 3 * completion) / 1_000_000


class Providers:
    """A gateway with the three providers.

    Args:
        gateway: the gateway.
        upstream: plays the providers.
        database_url: the gateway's database.
    """

    def __init__(self, gateway: Gateway, upstream: ScriptedUpstream, database_url: str) -> None:
        self.gateway, self.upstream, self.database_url = gateway, upstream, database_url
        self._tables = ActivityTables(database_url)
        self._next = 0

    def take_number(self) -> int:
        """Returns the number of a new request."""
        self._next += 1
        assert self._next < MODELS
        return self._next

    def ask(
        self,
        number: int,
        plan: Sequence[tuple[str, Script]],
        path: str = "/v1/chat/completions",
        *,
        key: str | None = None,
        **more: Any,
    ) -> Seen:
        """Sends a request that names a model of each provider of the plan, in this order.

        Args:
            number: from `take_number`.
            plan: the providers, each with its script.
            path: the endpoint.
            key: the client's gateway key, by default the operator's.
            more: further fields of the body.
        """
        content = self.prepare(number, plan, path, **more)
        headers = {"Authorization": f"Bearer {key or self.gateway.key}", "Content-Type": "application/json"}
        return request("POST", self.gateway.url + path, headers=headers, data=content)

    def prepare(self, number: int, plan: Sequence[tuple[str, Script]], path: str, **more: Any) -> bytes:
        """Gives the providers their scripts, and returns the body of the request; see `ask`."""
        for provider, script in plan:
            self.upstream.on_model(f"/m{number}-{provider}", script)
        body = {"models": [get_model(provider, number) for provider, _ in plan]} | dict(PROMPTS[path]) | more
        return json.dumps(body).encode()

    def get_calls(self, number: int) -> list[tuple[str, SeenRequest]]:
        """Returns the requests that providers got for a request, in order, each with the provider's name."""
        return [
            (str(seen.json["model"]).rpartition("-")[2], seen)
            for seen in list(self.upstream.requests)
            if isinstance(seen.json, dict) and f"/m{number}-" in str(seen.json.get("model"))
        ]

    def wait_for_rows(self, column: str, values: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns value → the row of activity that has it in a column, once all rows are there.

        Raises:
            AssertionError: a value has no row, or several.
        """
        listed = ", ".join(f"'{value}'" for value in values)
        query = f"SELECT * FROM activity WHERE {column} IN ({listed}) AND outcome <> 'lost'"

        def select() -> list[dict[str, Any]]:
            rows = [dict(row._mapping) for row in self._tables.select(query)]
            return rows if len(rows) >= len(values) else []

        rows = wait_until(select, what="the rows")
        assert len(rows) == len(values)
        return {str(row[column]): row for row in rows}


@contextmanager
def running_providers(gateways: Gateways, database_url: str, place: Path, **settings: str) -> Iterator[Providers]:
    """The providers and their gateway for the length of a `with` block."""
    prices = place / "prices.toml"
    lines = [
        f'[{name}."*"]\nprompt = {prompt}\ncompletion = {completion}' for name, (prompt, completion) in PRICES.items()
    ]
    prices.write_text("\n".join(['unit = "usd_per_million_tokens"', *lines]))
    with ScriptedUpstream() as upstream:
        for name in PROVIDERS:
            upstream.on_path(f"{BASE_PATHS[name]}/models", list_answer(make_rows(name)))
        chosen = provider_environment(root_of(upstream), PROVIDERS) | SETTINGS | {"PRICE_FILE": str(prices)} | settings
        with gateways.running(database_url, chosen) as gateway:
            wait_for_lists(gateway, PROVIDERS)
            yield Providers(gateway, upstream, database_url)


def wait_for_lists(gateway: Gateway, names: Iterable[str]) -> None:
    """Waits until the gateway has the lists of these providers."""

    def has_list(name: str) -> bool:
        seen = request("GET", f"{gateway.url}/api/catalog/models?gateway={name}&limit=1")
        return bool(seen.status == 200 and seen.json["data"])

    for name in names:
        wait_until(functools.partial(has_list, name), what=f"the list of {name}")


def make_rows(provider: str) -> list[dict[str, Any]]:
    """Returns a provider's list of models."""
    ids = [get_model(provider, number) for number in range(MODELS)]
    context = CONTEXTS[provider]
    if provider == "fireworks":
        return [row | {"context_length": context} for row in fireworks_rows(*(id.removeprefix(PREFIX) for id in ids))]
    if provider == "deepinfra":
        return [{"id": id, "metadata": {"context_length": context, "tags": ["chat"]}} for id in ids]
    return [{"id": id, "context_length": context} for id in ids]
