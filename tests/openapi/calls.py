"""Calls operations of the OpenAPI document at a running gateway, each with a request that succeeds."""

from __future__ import annotations

import json
import secrets
from functools import partial
from typing import Any, NamedTuple

from tests.support.chat import Seen, request
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

CHAT_MODEL = "accounts/fireworks/models/deepseek-v3p1"
HELLO = [{"role": "user", "content": "Hello!"}]
MESSAGE = {"model": CHAT_MODEL, "max_tokens": 100, "messages": HELLO}
DOCUMENTS = ["Tea is drunk hot.", "The capital of France is Paris."]
RANKING = {
    "model": "accounts/fireworks/models/qwen3-reranker-8b",
    "query": "What is the capital of France?",
    "documents": DOCUMENTS,
}


class Call(NamedTuple):
    """A request for an operation. `{name}` in the path is filled in from earlier answers."""

    id: str
    path: str
    body: Any = None
    as_stream: bool = False


CALLS = (
    Call("create_chat_completion", "/v1/chat/completions", {"model": CHAT_MODEL, "messages": HELLO}),
    Call(
        "create_chat_completion",
        "/v1/chat/completions",
        {"model": CHAT_MODEL, "messages": HELLO, "max_tokens": 3, "stream": True},
        as_stream=True,
    ),
    Call("create_completion", "/v1/completions", {"model": CHAT_MODEL, "prompt": "The capital of France is"}),
    Call(
        "create_completion",
        "/v1/completions",
        {"model": CHAT_MODEL, "prompt": "The capital of France is", "max_tokens": 3, "stream": True},
        as_stream=True,
    ),
    Call(
        "create_embeddings",
        "/v1/embeddings",
        {"model": "accounts/fireworks/models/qwen3-embedding-8b", "input": ["a text"], "dimensions": 4},
    ),
    Call("rerank", "/v1/rerank", RANKING),
    Call("rerank_v2", "/v2/rerank", RANKING | {"top_n": 1, "return_documents": True}),
    Call("create_message", "/v1/messages", MESSAGE),
    Call("create_message", "/v1/messages", MESSAGE | {"max_tokens": 3, "stream": True}, as_stream=True),
    Call("create_response", "/v1/responses", {"model": CHAT_MODEL, "input": "Hello!"}),
    Call(
        "create_response",
        "/v1/responses",
        {"model": CHAT_MODEL, "input": "Hello!", "max_output_tokens": 3, "stream": True},
        as_stream=True,
    ),
    Call("count_tokens", "/v1/messages/count_tokens", {"model": CHAT_MODEL, "messages": HELLO}),
    Call("list_models", "/v1/models?limit=2"),
    Call("retrieve_model", "/v1/models/deepseek-v3p1"),
    Call("list_catalog", "/api/catalog/models?limit=2"),
    Call("list_catalog_changes", "/api/catalog/changes?limit=1"),
    Call("show_catalog_model", "/api/catalog/model/deepseek-v3p1"),
    Call("list_offers", "/api/catalog/model/deepseek-v3p1/endpoints"),
    Call("create_group", "/api/groups", {"name": "{group}", "requests_per_minute": 600}),
    Call(
        "create_key",
        "/api/keys",
        {"name": "{new}", "group": "{group}", "budgets": ["50/month"], "requests_per_minute": 60},
    ),
    Call("list_keys", "/api/keys?limit=1"),
    Call("show_key", "/api/keys/{key}"),
    Call("change_key", "/api/keys/{key}", {"requests_per_minute": 120}),
    Call("show_key_v1", "/v1/key"),
    Call("show_own_key", "/api/key"),
    Call("list_budgets", "/api/budgets"),
    Call("show_budget", "/api/budgets/{budget}"),
    Call("raise_budget", "/api/budgets/{budget}/raise", {"amount": 5}),
    Call("end_budget", "/api/budgets/{budget}"),
    Call("rotate_key", "/api/keys/{key}/rotate", {"overlap_s": 3600}),
    Call("revoke_key", "/api/keys/{key}"),
    Call("list_groups", "/api/groups"),
    Call("show_group", "/api/groups/{group}"),
    Call("change_group", "/api/groups/{group}", {"concurrent": 8}),
    Call("create_group", "/api/groups", {"name": "{empty}"}),
    Call("delete_group", "/api/groups/{empty}"),
    Call("create_holder", "/api/holders", {"name": "{holder}", "budgets": ["20/month"]}),
    Call("list_holders", "/api/holders?limit=1"),
    Call("show_holder", "/api/holders/{holder}"),
    Call("change_holder", "/api/holders/{holder}", {"concurrent": 4}),
    Call("delete_holder", "/api/holders/{holder}"),
    Call("create_alias", "/api/aliases", {"name": "{alias}", "targets": ["fireworks/" + CHAT_MODEL]}),
    Call("list_aliases", "/api/aliases"),
    Call("show_alias", "/api/aliases/{alias}"),
    Call("change_alias", "/api/aliases/{alias}", {"sort": "price"}),
    Call("delete_alias", "/api/aliases/{alias}"),
    Call("show_limits", "/api/limits"),
    Call("change_limits", "/api/limits", {"max_output_tokens": None}),
    Call("list_changes", "/api/audit?limit=2"),
    Call("show_stats", "/api/catalog/gateway/all/stats?time_range=1h"),
    Call("show_request", "/api/activity/{request}"),
    Call("list_activity", "/api/activity?limit=1"),
    Call("show_integrity", "/api/activity/integrity"),
    Call("show_retries", "/api/activity/retries"),
    Call("show_usage", "/api/usage"),
    Call("show_reconciliation", "/api/bill/reconciliation"),
    Call("list_workers", "/api/workers"),
    Call("is_alive", "/health"),
    Call("greet", "/"),
    Call("greet_api", "/api/hello"),
    Call("is_ready", "/ready"),
)


class Caller:
    """Calls operations one after the other, and fills in values from earlier answers.

    Args:
        gateway: a gateway in front of the sandbox.
        document: its OpenAPI document.
    """

    def __init__(self, gateway: Gateway, document: dict[str, Any]) -> None:
        self._gateway = gateway
        paths = document["paths"].values()
        self._methods = {each["operationId"]: method.upper() for path in paths for method, each in path.items()}
        mark = secrets.token_hex(4)  # Other tests share the gateway.
        self._names = {"new": f"dave-{mark}", "group": f"team-{mark}", "empty": f"nobody-{mark}"}
        self._names |= {"holder": f"erin-{mark}", "alias": f"fast-{mark}"}

    def call(self, call: Call) -> Seen:
        """Sends the request of a call, and keeps the values that later ones need."""
        body = json.loads(self._fill(json.dumps(call.body)))
        send = partial(self._send, call.id, self._fill(call.path), body)
        if call.id == "show_request":
            wait_until(lambda: send().status == 200, what="the record of the request")
        seen = send()
        self._keep(call, seen)
        return seen

    def _send(self, operation: str, path: str, body: Any) -> Seen:
        """Sends any request for an operation."""
        sent = {} if body is None else {"json": body}
        return request(self._methods[operation], self._gateway.url + path, headers=self._gateway.headers, **sent)

    def _fill(self, text: str) -> str:
        for name, value in self._names.items():
            text = text.replace("{" + name + "}", value)
        return text

    def _keep(self, call: Call, seen: Seen) -> None:
        if call.id == "create_key":
            made = json.loads(seen.body)["data"]
            self._names |= {"key": made["id"], "budget": str(made["budgets"][0]["id"])}
        if call.id == "create_chat_completion" and not call.as_stream:
            self._names["request"] = seen.request_id
