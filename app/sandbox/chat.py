"""One chat request to the sandbox, from the key check to the response."""

import json
from typing import Any

from app.sandbox.behaviours import Behaviour, parse_behaviour
from app.sandbox.choices import Choice, make_choices
from app.sandbox.completions import Chat, make_completion, make_headers
from app.sandbox.events import make_events
from app.sandbox.failures import Failure, RequestRefused, make_front_failure, make_server_failure
from app.sandbox.faults import apply_to_body, apply_to_stream
from app.sandbox.models import ChatModel
from app.sandbox.providers import Provider
from app.sandbox.response_body import ResponseBody
from app.sandbox.samples import UnsupportedSchema
from app.sandbox.scripts import SCRIPT_HEADER, ScriptError, Turn, find_turn
from app.sandbox.state import State
from app.sandbox.validation import EXTRA, find_problems, make_message
from app.sandbox.web import Request, Response, dump_json

# With a larger max_tokens Fireworks serves only streamed requests.
_MAX_UNSTREAMED_TOKENS = 4096
_GARBAGE_BODY = b"<<< this is not JSON"


def handle_chat(provider: Provider, state: State, request: Request) -> Response:
    """Handles POST …/chat/completions; raises RequestRefused with the error body of the provider."""
    provider.raise_if_agent_refused(request)
    provider.raise_if_key_refused(request)
    body = parse_body(provider, request)
    model_name = get_model_name(provider, body)
    state.stats.by_model[model_name] += 1
    behaviour = parse_behaviour(model_name)
    model = find_model(provider, state, model_name, behaviour)
    if behaviour:
        apply_to_request(provider, state, request, behaviour, body)
    _raise_if_invalid(provider, body, model)
    turn = find_scripted_turn(provider, request, body)
    choices = _enlarge_text(_make_choices(provider, model, body, turn), behaviour)
    chat = Chat(provider, model, body, choices, request.id_hex, scripted_usage=turn.usage if turn else {})
    state.stats.prompt_tokens += chat.prompt_tokens
    respond = _make_streamed_response if body.get("stream") else _make_whole_response
    return respond(chat, state, request, behaviour or Behaviour("", 0))


def parse_body(provider: Provider, request: Request) -> dict[str, Any]:
    """Returns the JSON object of a request; raises RequestRefused for any other body."""
    try:
        body = json.loads(request.body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise RequestRefused(provider.get_failure("400"))
    return body


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def get_model_name(provider: Provider, body: dict[str, Any]) -> str:
    """Returns the requested model; raises RequestRefused if there is none."""
    name = body.get("model")
    if isinstance(name, str) and name:
        return name
    if provider.validates:
        raise RequestRefused(make_server_failure(400, "Field required, field: 'model'"))
    raise RequestRefused(provider.get_failure("400"))


def find_model(provider: Provider, state: State, name: str, behaviour: Behaviour | None) -> ChatModel:
    """Returns the model that serves a request for generated text; raises RequestRefused if there is none."""
    model = provider.find_model(state.options, name)
    if model is None and behaviour and not provider.validates:
        # Only Fireworks lists the misbehaving models; the other providers serve them unlisted.
        model = ChatModel(name)
    if model is None:
        raise RequestRefused(provider.get_failure("404"))
    if not model.chat:
        raise RequestRefused(make_front_failure(400, "The model does not support chat", "BAD_REQUEST", "model"))
    return model


def apply_to_request(
    provider: Provider, state: State, request: Request, behaviour: Behaviour, body: dict[str, Any]
) -> None:
    """Raises RequestRefused for the models that fail, and waits for the one that is slow to start."""
    kind = behaviour.kind
    if kind == "slow-headers":
        request.connection.wait(behaviour.number)
    elif kind == "flaky":
        asked = {name: body.get(name) for name in ("messages", "prompt", "input", "query", "queries")}
        attempt = state.count_attempt(str(body.get("model")), json.dumps(asked))
        if attempt <= behaviour.count:
            raise RequestRefused(provider.get_failure("503"))
    elif kind == "429-retry-after":
        failure = provider.get_failure("429")
        retry_after = ("retry-after", f"{behaviour.number:g}")
        raise RequestRefused(type(failure)(failure.status, failure.body, (*failure.headers, retry_after)))
    elif kind[0].isdigit():
        raise RequestRefused(provider.get_failure(kind))
    elif kind == "error-event" and not body.get("stream"):
        raise RequestRefused(provider.get_failure("500"))


def _raise_if_invalid(provider: Provider, body: dict[str, Any], model: ChatModel) -> None:
    """Raises RequestRefused for an invalid request; only Fireworks refuses unknown fields and says what is wrong."""
    problems = find_problems(body, model)
    if not provider.validates:
        if any(not problem.startswith(EXTRA) for problem in problems):
            raise RequestRefused(provider.get_failure("400"))
        return
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    if isinstance(limit, int) and limit > _MAX_UNSTREAMED_TOKENS and not body.get("stream"):
        text = f"Requests with max_tokens > {_MAX_UNSTREAMED_TOKENS} must have stream=true"
        raise RequestRefused(make_front_failure(400, text, "BAD_REQUEST", "max_tokens"))
    if problems:
        raise RequestRefused(make_server_failure(400, make_message(problems)))


def find_scripted_turn(provider: Provider, request: Request, body: dict[str, Any]) -> Turn | None:
    """Returns the turn that a script dictates, if there is one; raises RequestRefused for a malformed script."""
    try:
        return find_turn(body, request.get_header(SCRIPT_HEADER))
    except ScriptError as error:
        raise RequestRefused(_make_explained_failure(provider, f"The script is wrong: {error}.")) from error


def _make_choices(provider: Provider, model: ChatModel, body: dict[str, Any], turn: Turn | None) -> list[Choice]:
    try:
        return make_choices(model, body, turn)
    except UnsupportedSchema as error:
        raise RequestRefused(_make_explained_failure(provider, f"JSON Schema not supported: {error}")) from error


def _make_explained_failure(provider: Provider, text: str) -> Failure:
    """Returns a 400 that says what is wrong, also for providers that never do: this is about the sandbox itself."""
    if provider.validates:
        return make_server_failure(400, text)
    return provider.get_failure("400").with_message(text)


def _enlarge_text(choices: list[Choice], behaviour: Behaviour | None) -> list[Choice]:
    """Replaces the text with one huge token for `sandbox-huge-event`."""
    if behaviour and behaviour.kind == "huge-event":
        return [Choice(choice.index, "stop", content=["x" * behaviour.count]) for choice in choices]
    return choices


def _make_streamed_response(chat: Chat, state: State, request: Request, behaviour: Behaviour) -> Response:
    options = state.options
    events = make_events(chat, options.first_event_s, options.pace_s)
    events = apply_to_stream(behaviour, events, chat.provider.stream_error)
    headers = make_headers(chat, options.first_event_s, None, get_request_id(request))
    body = ResponseBody(events, request.connection, state.stats, stream=True)
    kind = ("content-type", "text/event-stream; charset=utf-8")
    return Response(200, (kind, *headers), body)


def _make_whole_response(chat: Chat, state: State, request: Request, behaviour: Behaviour) -> Response:
    """Returns one JSON body, sent after the time that streaming all of its tokens would take."""
    first_s = state.options.first_event_s
    total_s = first_s + state.options.pace_s * chat.sent_tokens
    payload = dump_json(make_completion(chat, first_s, total_s))
    if behaviour.kind == "garbage":
        payload = _GARBAGE_BODY
    headers = make_headers(chat, first_s, total_s, get_request_id(request))
    own = (("content-type", "application/json"), ("content-length", str(len(payload))))
    events = apply_to_body(behaviour, payload, total_s, chat.sent_tokens)
    return Response(200, own + headers, ResponseBody(events, request.connection, state.stats, stream=False))


def get_request_id(request: Request) -> str:
    """Returns the id for the header of a response: the client's, or one that was made up."""
    return request.get_header("x-request-id") or request.id_hex
