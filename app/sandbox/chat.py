"""One chat request to the sandbox, from the key check to the response."""

from typing import Any

from app.sandbox.choices import Choice, make_choices
from app.sandbox.completions import Chat, make_completion, make_headers
from app.sandbox.events import make_events
from app.sandbox.failures import Failure, RequestRefused, make_front_failure, make_server_failure
from app.sandbox.models import ChatModel
from app.sandbox.providers import Provider
from app.sandbox.request_frame import Call, read_call
from app.sandbox.samples import UnsupportedSchema
from app.sandbox.scripts import SCRIPT_HEADER, ScriptError, Turn, find_turn
from app.sandbox.state import State
from app.sandbox.validation import find_problems
from app.sandbox.web import Request, Response


def handle_chat(provider: Provider, state: State, request: Request) -> Response:
    """Handles POST …/chat/completions; raises RequestRefused with the error body of the provider."""
    call = read_call(provider, state, request)
    model = find_model(call)
    call.fail_on_demand()
    call.refuse_invalid(find_problems(call.body, model))
    turn = find_scripted_turn(provider, request, call.body)
    choices = _make_choices(call, model, turn)
    chat = Chat(provider, model, call.body, choices, request.id_hex, scripted_usage=turn.usage if turn else {})
    call.book(model.id, chat.prompt_tokens, chat.cached_tokens, chat.completion_tokens)
    return _make_streamed_response(call, chat) if call.body.get("stream") else _make_whole_response(call, chat)


def find_model(call: Call) -> ChatModel:
    """Returns the model that serves a request for generated text; raises RequestRefused if there is none."""
    model = call.provider.find_model(call.state.options, call.model)
    if model is None and call.behaviour.kind and not call.provider.validates:
        # Only Fireworks lists the misbehaving models; the other providers serve them unlisted.
        model = ChatModel(call.model)
    if model is None:
        raise RequestRefused(call.provider.get_failure("404"))
    if not model.chat:
        raise RequestRefused(make_front_failure(400, "The model does not support chat", "BAD_REQUEST", "model"))
    return model


def find_scripted_turn(provider: Provider, request: Request, body: dict[str, Any]) -> Turn | None:
    """Returns the turn that a script dictates, if there is one; raises RequestRefused for a malformed script."""
    try:
        return find_turn(body, request.get_header(SCRIPT_HEADER))
    except ScriptError as error:
        raise RequestRefused(_make_explained_failure(provider, f"The script is wrong: {error}.")) from error


def _make_choices(call: Call, model: ChatModel, turn: Turn | None) -> list[Choice]:
    try:
        choices = make_choices(model, call.body, turn)
    except UnsupportedSchema as error:
        raise RequestRefused(_make_explained_failure(call.provider, f"JSON Schema not supported: {error}")) from error
    if call.behaviour.kind == "huge-event":
        return [Choice(choice.index, "stop", content=["x" * call.behaviour.count]) for choice in choices]
    return choices


def _make_explained_failure(provider: Provider, text: str) -> Failure:
    """Returns a 400 that explains the problem, even for providers that never do: this is about the sandbox itself."""
    if provider.validates:
        return make_server_failure(400, text)
    return provider.get_failure("400").with_message(text)


def _make_streamed_response(call: Call, chat: Chat) -> Response:
    first_s, pace_s = call.state.options.first_event_s, call.state.options.pace_s
    headers = make_headers(chat, first_s, None, call.get_request_id())
    return call.make_stream(make_events(chat, first_s, pace_s), headers)


def _make_whole_response(call: Call, chat: Chat) -> Response:
    """Returns one JSON body, sent after the time that streaming all of its tokens would take."""
    first_s = call.state.options.first_event_s
    total_s = first_s + call.state.options.pace_s * chat.sent_tokens
    headers = make_headers(chat, first_s, total_s, call.get_request_id())
    return call.make_whole(make_completion(chat, first_s, total_s), headers, total_s=total_s, tokens=chat.sent_tokens)
