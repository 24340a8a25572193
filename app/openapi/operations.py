"""The table of operations: the parameters, bodies and answers of each route. The test compares it with the routes."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from app.openapi import answers, inference_answers, requests
from app.openapi.records import RecordAnswer, RecordPage
from app.routes import activity, bill, budgets, catalog, catalog_changes, diagnostics, holders, keys, models, stats
from app.services.administration import (
    GroupChanges,
    HolderPatch,
    KeyChanges,
    LimitChanges,
    NewGroup,
    NewHolder,
    NewKey,
    select_audit_page,
    select_budget_page,
    select_holders_page,
    select_keys_page,
)
from app.services.alias_administration import AliasChanges, NewAlias
from app.services.bill import select_reconciliation
from app.services.catalog_memory import ATOM, select_changes_page
from app.services.health import Readiness, select_workers_report
from app.services.journal import select_integrity_report
from app.services.models import MergedModel
from app.services.reports import select_retry_report, select_usage_report

JSON, EVENTS, CSV, TEXT = "application/json", "text/event-stream", "text/csv", "text/plain"


class Operation(NamedTuple):
    """One method of one path.

    Attributes:
        id: its name in generated clients.
        method, path: as in the route.
        answer: the type of the JSON answer, or several of which it has one, or the function that returns the answer;
            TEXT if it is not JSON.
        query: a Struct of its parameters.
        body: the type of its body.
        status: the status of a success.
        errors: further statuses of errors; those of access, parameters and bodies are added.
        events: the content of the answer as a stream; None without streams.
        others: further media types of the answer.
        summary: its purpose; None if the view's docstring has it.
    """

    id: str
    method: str
    path: str
    answer: Any
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    status: int = 200
    errors: tuple[int, ...] = ()
    events: str | None = None
    others: tuple[str, ...] = ()
    summary: str | None = None

    @property
    def is_inference(self) -> bool:
        """Whether a provider answers it."""
        return self.path in _INFERENCE


class Ready(msgspec.Struct):
    """Whether the process should get requests."""

    ready: bool


_CHAT_EVENTS = (
    "With `stream: true`: each event is `data:` and a ChatChunk; the last one is `data: [DONE]`. A stream that fails "
    "ends with an event that has the form of an error, without `[DONE]`. Lines that begin with a colon are heartbeats."
)
_TEXT_EVENTS = _CHAT_EVENTS.replace("ChatChunk", "TextCompletion with pieces of the texts")
_MESSAGE_EVENTS = (
    "With `stream: true`: Anthropic's events, from `message_start` to `message_stop`; a stream that fails ends with an "
    "event `error`. `ping` is a heartbeat."
)
_RESPONSE_EVENTS = (
    "With `stream: true`: OpenAI's events, from `response.created` to `response.completed`, `response.incomplete` or "
    "`response.failed`, each with a `sequence_number`. Lines that begin with a colon are heartbeats."
)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "create_chat_completion",
        "POST",
        "/v1/chat/completions",
        inference_answers.ChatCompletion,
        body=requests.ChatRequest,
        events=_CHAT_EVENTS,
        summary="Answers a conversation",
    ),
    Operation(
        "create_completion",
        "POST",
        "/v1/completions",
        inference_answers.TextCompletion,
        body=requests.CompletionRequest,
        events=_TEXT_EVENTS,
        summary="Continues a text",
    ),
    Operation(
        "create_embeddings",
        "POST",
        "/v1/embeddings",
        inference_answers.EmbeddingList,
        body=requests.EmbeddingRequest,
        summary="Turns texts into vectors",
    ),
    Operation(
        "rerank",
        "POST",
        "/v1/rerank",
        inference_answers.Ranking,
        body=requests.RerankRequest,
        summary="Sorts documents by how well they answer a query",
    ),
    Operation(
        "rerank_v2",
        "POST",
        "/v2/rerank",
        inference_answers.Ranking,
        body=requests.RerankRequest,
        summary="The same, at the path of Cohere's clients",
    ),
    Operation(
        "create_message",
        "POST",
        "/v1/messages",
        inference_answers.Message,
        body=requests.MessageRequest,
        events=_MESSAGE_EVENTS,
        summary="Answers a conversation in Anthropic's form",
    ),
    Operation(
        "create_response",
        "POST",
        "/v1/responses",
        inference_answers.Response,
        body=requests.ResponseRequest,
        events=_RESPONSE_EVENTS,
        summary="Answers a conversation in the form of OpenAI's Responses; nothing is stored",
    ),
    Operation(
        "count_tokens",
        "POST",
        "/v1/messages/count_tokens",
        inference_answers.TokenCount,
        body=requests.CountTokensRequest,
        summary="Estimates a request's tokens; it costs nothing and has no record",
    ),
    Operation("list_models", "GET", "/v1/models", answers.ModelList, query=models.ModelsQuery),
    Operation("retrieve_model", "GET", "/v1/models/<path:model_id>", MergedModel, errors=(400, 403)),
    Operation("show_key_v1", "GET", "/v1/key", answers.OwnKeyAnswer),
    Operation("show_own_key", "GET", "/api/key", answers.OwnKeyAnswer),
    Operation("list_catalog", "GET", "/api/catalog/models", answers.CatalogPage, query=catalog.CatalogQuery),
    Operation(
        "list_catalog_changes",
        "GET",
        "/api/catalog/changes",
        select_changes_page,
        query=catalog_changes.ChangesQuery,
        others=(ATOM,),
    ),
    Operation(
        "show_catalog_model",
        "GET",
        "/api/catalog/model/<path:model_id>",
        answers.CatalogModel,
        query=catalog.GatewayQuery,
    ),
    Operation(
        "list_offers",
        "GET",
        "/api/catalog/model/<path:model_id>/endpoints",
        answers.OfferList,
        query=catalog.GatewayQuery,
    ),
    Operation(
        "show_stats",
        "GET",
        "/api/catalog/gateway/<gateway>/stats",
        stats.StatsBody,
        query=stats.StatsQuery,
        errors=(403,),
    ),
    Operation(
        "list_activity",
        "GET",
        "/api/activity",
        RecordPage,
        query=activity.ActivityQuery,
        others=(CSV,),
        errors=(403, 404),
    ),
    Operation("show_integrity", "GET", "/api/activity/integrity", select_integrity_report, errors=(400, 403)),
    Operation(
        "show_retries",
        "GET",
        "/api/activity/retries",
        select_retry_report,
        query=activity.RetriesQuery,
        errors=(403, 404),
    ),
    Operation("show_request", "GET", "/api/activity/<path:request_id>", RecordAnswer, errors=(400,)),
    Operation("show_usage", "GET", "/api/usage", select_usage_report, query=activity.UsageQuery, errors=(403, 404)),
    Operation("list_keys", "GET", "/api/keys", select_keys_page, query=keys.KeysQuery, errors=(404,)),
    Operation("create_key", "POST", "/api/keys", answers.NewKeyAnswer, body=NewKey, status=201, errors=(404, 409)),
    Operation("show_key", "GET", "/api/keys/<id>", answers.KeyAnswer, errors=(400,)),
    Operation("change_key", "PATCH", "/api/keys/<id>", answers.KeyAnswer, body=KeyChanges, errors=(409,)),
    Operation("revoke_key", "DELETE", "/api/keys/<id>", answers.KeyAnswer, errors=(400,)),
    Operation(
        "rotate_key",
        "POST",
        "/api/keys/<id>/rotate",
        answers.NewKeyAnswer,
        body=keys.Rotation,
        status=201,
        errors=(409,),
    ),
    Operation("list_groups", "GET", "/api/groups", answers.GroupList, errors=(400,)),
    Operation("create_group", "POST", "/api/groups", answers.GroupAnswer, body=NewGroup, status=201, errors=(409,)),
    Operation("show_group", "GET", "/api/groups/<path:group>", answers.GroupAnswer, errors=(400,)),
    Operation(
        "change_group", "PATCH", "/api/groups/<path:group>", answers.GroupAnswer, body=GroupChanges, errors=(409,)
    ),
    Operation("delete_group", "DELETE", "/api/groups/<path:group>", answers.DeletedGroupAnswer, errors=(400, 409)),
    Operation("list_holders", "GET", "/api/holders", select_holders_page, query=holders.HoldersQuery, errors=(404,)),
    Operation("create_holder", "POST", "/api/holders", answers.HolderAnswer, body=NewHolder, status=201, errors=(409,)),
    Operation("show_holder", "GET", "/api/holders/<path:holder>", answers.HolderAnswer, errors=(400,)),
    Operation(
        "change_holder", "PATCH", "/api/holders/<path:holder>", answers.HolderAnswer, body=HolderPatch, errors=(409,)
    ),
    Operation("delete_holder", "DELETE", "/api/holders/<path:holder>", answers.DeletedHolderAnswer, errors=(400, 409)),
    Operation("list_aliases", "GET", "/api/aliases", answers.AliasList, errors=(400,)),
    Operation("create_alias", "POST", "/api/aliases", answers.AliasAnswer, body=NewAlias, status=201, errors=(409,)),
    Operation("show_alias", "GET", "/api/aliases/<path:name>", answers.AliasAnswer, errors=(400,)),
    Operation(
        "change_alias", "PATCH", "/api/aliases/<path:name>", answers.AliasAnswer, body=AliasChanges, errors=(409,)
    ),
    Operation("delete_alias", "DELETE", "/api/aliases/<path:name>", answers.DeletedAliasAnswer, errors=(400,)),
    Operation("show_limits", "GET", "/api/limits", answers.LimitsAnswer, errors=(400,)),
    Operation("change_limits", "PATCH", "/api/limits", answers.LimitsAnswer, body=LimitChanges, errors=(409,)),
    Operation("list_budgets", "GET", "/api/budgets", select_budget_page, query=budgets.BudgetsQuery),
    Operation("show_budget", "GET", "/api/budgets/<int:id>", answers.BudgetAnswer, errors=(400,)),
    Operation("end_budget", "DELETE", "/api/budgets/<int:id>", answers.EndedBudgetAnswer, errors=(400,)),
    Operation(
        "raise_budget",
        "POST",
        "/api/budgets/<int:id>/raise",
        answers.BudgetAnswer,
        body=budgets.Raise,
        errors=(409,),
    ),
    Operation("list_changes", "GET", "/api/audit", select_audit_page, query=budgets.AuditQuery),
    Operation(
        "show_reconciliation",
        "GET",
        "/api/bill/reconciliation",
        select_reconciliation,
        query=bill.ReconciliationQuery,
    ),
    Operation("list_workers", "GET", "/api/workers", select_workers_report, errors=(400,)),
    Operation("is_alive", "GET", "/health", answers.Alive),
    Operation("greet", "GET", "/", answers.Hello),
    Operation("greet_api", "GET", "/api/hello", answers.Hello),
    Operation("is_ready", "GET", "/ready", (Readiness, Ready)),
    Operation(
        "watch_test_stream",
        "GET",
        "/api/diagnostics/stream",
        TEXT,
        query=diagnostics.StreamQuery,
        events="Six events with their `number`; the first also says how the request arrived. Then `[DONE]`.",
    ),
    Operation("show_metrics", "GET", "/metrics", TEXT, others=(TEXT,)),
    Operation("show_openapi", "GET", "/openapi.json", dict[str, Any]),
)

_INFERENCE = {
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/v2/rerank",
    "/v1/messages",
    "/v1/responses",
}
