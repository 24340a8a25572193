"""Playground: sends a request to up to three models and compares their answers.

The requests pass through the API's pipeline, by the same views, and are counted for the signed-in key. The key itself
is not needed for that, so no session has to keep it. A link fills the form and never sends it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any

import msgspec
from flask import g

from app.dashboard.calls import TEMPLATES, write_calls
from app.dashboard.frame import calls, get_origin, pages, show
from app.dashboard.models import find_example_model, select_use
from app.errors import NotFound
from app.routes import make_view
from app.services.endpoints import ENDPOINTS
from app.services.models import peek_model_list
from app.services.providers import PROVIDERS
from app.services.reports import select_request_story
from app.web import NO_STORE, Response, json_response, one_of, read_query

# Path of an endpoint → its name in the form.
APIS = {"/v1/chat/completions": "Chat", "/v1/messages": "Messages", "/v1/responses": "Responses"}
MAX_MODELS = 3
# Suggestions while typing; any other name may be typed too.
_SUGGESTED = 200
# Messages requires a limit.
_MESSAGES_TOKENS = 1_000

_BELOW = "/dashboard/playground"
Text = Annotated[str, msgspec.Meta(max_length=2_000)]


class PlaygroundQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of the form; empty ones are not sent.

    Attributes:
        model: up to MAX_MODELS names, separated by commas.
        system, message: texts.
        max_tokens, temperature, top_p: parameters, which have no default here.
    """

    api: Annotated[str, one_of(APIS)] = "/v1/chat/completions"
    model: Text = ""
    system: Text = ""
    message: Text = ""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=10**9)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=10)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class PlayedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The cost and the times of a request, in the form of the request's page."""

    outcome: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: str | None
    cost_kind: str
    ttft_ms: float | None
    duration_ms: float | None
    tokens_per_second: float | None
    error_message: str | None


@pages.get("/dashboard/playground")
def show_playground() -> Response:
    """Shows the form, filled from the query, and the resulting request as code."""
    query = read_query(PlaygroundQuery)
    models = [name.strip() for name in query.model.split(",") if name.strip()][:MAX_MODELS]
    body = make_body(query, models[0] if models else find_example_model())
    use = select_use()
    return show(
        "playground.html",
        "dashboard/playground",
        query=query,
        models=models,
        max_models=MAX_MODELS,
        apis=APIS,
        messages_tokens=_MESSAGES_TOKENS,
        suggested=_suggest(use),
        has_use=use is not None,
        calls=write_calls(get_origin() + query.api, body),
        templates=TEMPLATES,
        example_model=find_example_model(),
    )


def make_body(query: PlaygroundQuery, model: str) -> dict[str, Any]:
    """Returns the body of the request for a form. The page's script does the same."""
    message, system = query.message or "Hello!", query.system
    parameters = {name: value for name in ("temperature", "top_p") if (value := getattr(query, name)) is not None}
    if query.api == "/v1/responses":
        limit = {} if query.max_tokens is None else {"max_output_tokens": query.max_tokens}
        own: dict[str, Any] = {"instructions": system} if system else {}
        own["input"] = message
    elif query.api == "/v1/messages":
        limit = {"max_tokens": query.max_tokens or _MESSAGES_TOKENS}
        own = ({"system": system} if system else {}) | {"messages": [{"role": "user", "content": message}]}
    else:
        limit = {} if query.max_tokens is None else {"max_tokens": query.max_tokens}
        first = [{"role": "system", "content": system}] if system else []
        own = {"messages": [*first, {"role": "user", "content": message}]}
    return {"model": model, **own, **limit, **parameters, "stream": True}


def _suggest(use: Iterable[str] | None) -> list[str]:
    """Returns model names: recently used ones, followed by the first chat models of each list."""
    listed = (
        model.id
        for provider in PROVIDERS.values()
        for model in peek_model_list(provider) or ()
        if model.capabilities.chat
    )
    return list(dict.fromkeys([*(use or ()), *islice(listed, _SUGGESTED)]))


@calls.get(f"{_BELOW}/records/<uuid:request_id>")
def show_record(request_id: Any) -> Response:
    """Returns the data that the page shows after a request; 204 until its record is there, about a second later."""
    try:
        record = select_request_story(str(request_id), None if g.key.is_operator else g.key.id).data
    except NotFound:
        return Response(b"", status=204)  # A 404 would be an error in the browser's console.
    values = {name: record[name] for name in PlayedRecord.__struct_fields__}
    values["cost_usd"] = None if values["cost_usd"] is None else format(values["cost_usd"], "f")
    return json_response(PlayedRecord(**values), headers=NO_STORE)


for _endpoint in ENDPOINTS:
    if _endpoint.path in APIS:
        _name = _endpoint.path.replace("/", "_")
        calls.add_url_rule(_BELOW + _endpoint.path, endpoint=_name, view_func=make_view(_endpoint), methods=["POST"])
