"""One request for completions of a text, from the key check to the response.

The texts are the same as in a chat whose only message is the prompt, and a script in a prompt works as there; its
reasoning is left out, since a completion has only a text. Several prompts are numbered consecutively: with `n` 2, the
second prompt has the choices 2 and 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from app.sandbox.chat import find_model, find_scripted_turn
from app.sandbox.choices import Choice, make_choices
from app.sandbox.completions import Chat, make_headers, make_logprobs
from app.sandbox.events import DONE, Event
from app.sandbox.failures import RequestRefused, make_server_failure
from app.sandbox.models import ChatModel
from app.sandbox.providers import Provider
from app.sandbox.request_frame import Call, read_call
from app.sandbox.state import State
from app.sandbox.tokens import split_tokens
from app.sandbox.validation import find_completion_problems
from app.sandbox.web import Request, Response, dump_json


@dataclass
class _Completion(Chat):
    """A valid request and its choices, with the prompt of each choice in tokens."""

    prompts: tuple[list[str], ...] = ()

    def __post_init__(self) -> None:
        counted = sum(map(len, self.prompts)) // (self.body.get("n") or 1)
        self.prompt_tokens = self.scripted_usage.get("prompt_tokens", counted)
        self.cached_tokens = self.scripted_usage.get("cached_tokens", 0)


def handle_completion(provider: Provider, state: State, request: Request) -> Response:
    """Handles POST …/completions; raises RequestRefused with the error body of the provider."""
    call = read_call(provider, state, request)
    model = find_model(call)
    call.fail_on_demand()
    prompts = _read_prompts(provider, call.body)
    call.refuse_invalid(find_completion_problems(call.body, model, sum(map(len, prompts))))
    completion = _make_completion(call, model, prompts)
    call.book(model.id, completion.prompt_tokens, completion.cached_tokens, completion.completion_tokens)
    respond = _make_streamed_response if call.body.get("stream") else _make_whole_response
    return respond(call, completion)


def _read_prompts(provider: Provider, body: dict[str, Any]) -> list[list[str]]:
    """Returns the prompts in tokens; token ids become the texts `<17>`."""
    value = body.get("prompt")
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        value = [value]
    if isinstance(value, list) and value:
        if all(isinstance(prompt, str) for prompt in value):
            return [split_tokens(prompt) for prompt in value]
        if all(isinstance(prompt, list) for prompt in value):
            return [[f"<{token}>" for token in prompt] for prompt in value]
    failure = make_server_failure(400, "Field required, field: 'prompt'")
    raise RequestRefused(failure if provider.validates else provider.get_failure("400"))


def _make_completion(call: Call, model: ChatModel, prompts: list[list[str]]) -> _Completion:
    body, behaviour = call.body, call.behaviour
    model = replace(model, reasons=False, always_reasons=False, counts_reasoning=False)
    choices: list[Choice] = []
    repeated: list[list[str]] = []
    usage: dict[str, int] = {}
    options: dict[str, Any] = {
        name: body[name] for name in ("n", "stop", "max_tokens", "max_completion_tokens") if name in body
    }
    for prompt in prompts:
        asked = {**options, "messages": [{"role": "user", "content": "".join(prompt)}]}
        turn = find_scripted_turn(call.provider, call.request, asked)
        if turn:
            turn = replace(turn, reasoning=[])
            usage = usage or turn.usage
        for choice in make_choices(model, asked, turn):
            choice.index = len(choices)
            if behaviour.kind == "huge-event":
                choice.content = ["x" * behaviour.count]
            if body.get("max_tokens") == 0:
                choice.content, choice.finish_reason = [], "length"
            choices.append(choice)
            repeated.append(prompt)
    return _Completion(
        call.provider, model, body, choices, call.request.id_hex, scripted_usage=usage, prompts=tuple(repeated)
    )


def _make_head(completion: _Completion) -> dict[str, Any]:
    return {
        "id": "cmpl-" + completion.id_hex,
        "object": "text_completion",
        "created": completion.created,
        "model": completion.model.id,
    }


def _make_entry(completion: _Completion, choice: Choice, tokens: list[str], reason: str | None) -> dict[str, Any]:
    """Returns one choice with some of its tokens; missing parts are null."""
    return {"index": choice.index, "text": "".join(tokens), "logprobs": None, "finish_reason": reason}


def _make_tokens(completion: _Completion, choice: Choice) -> list[str]:
    """Returns the tokens of a choice's text, after those of its prompt if the request has `echo`."""
    return [*(completion.prompts[choice.index] if completion.body.get("echo") else ()), *(choice.content or ())]


def _add_logprobs(completion: _Completion, choice: Choice, entry: dict[str, Any], tokens: list[str], at: int) -> None:
    """Adds the logprobs of some tokens; `at` is the position of the first of them among all tokens of the choice."""
    asked = completion.body.get("logprobs")
    if asked is None or asked is False or not completion.provider.gives_logprobs:
        return
    offset = len("".join(_make_tokens(completion, choice)[:at]))
    logprobs = make_logprobs(completion.body, tokens, offset)
    if completion.body.get("echo") and at == 0 and tokens:
        _clear_first(logprobs)
    entry["logprobs"] = logprobs


def _clear_first(logprobs: dict[str, Any]) -> None:
    """Sets the logprob of the first token to null, because nothing before it determines its likelihood."""
    if "content" in logprobs:
        logprobs["content"][0]["logprob"] = None
    else:
        logprobs["token_logprobs"][0] = logprobs["top_logprobs"][0] = None


def _make_events(completion: _Completion, first_s: float, pace_s: float) -> Iterator[Event]:
    for line in completion.provider.noise:
        yield Event(line, stage="noise")
    wait_s, left = first_s, len(completion.choices)
    running = [(choice, iter(enumerate(_make_tokens(completion, choice)))) for choice in completion.choices]
    while running:
        for each in list(running):
            choice, tokens = each
            at, token = next(tokens, (-1, ""))
            if at < 0:
                running.remove(each)
                left -= 1
                yield _make_event(completion, _make_entry(completion, choice, [], choice.finish_reason), left == 0)
                continue
            entry = _make_entry(completion, choice, [token], None)
            _add_logprobs(completion, choice, entry, [token], at)
            yield replace(_make_event(completion, entry, False), tokens=1, wait_s=wait_s, stage="delta")
            wait_s = pace_s
    if _sends_usage_apart(completion):
        chunk = {**_make_head(completion), "choices": [], "usage": completion.make_usage()}
        yield Event(b"data: " + dump_json(chunk) + b"\n\n", stage="usage")
    yield Event(DONE, stage="done")


def _make_event(completion: _Completion, entry: dict[str, Any], is_last: bool) -> Event:
    """Returns a chunk; Fireworks sends the usage in the last one even if it is not requested."""
    usage = completion.make_usage() if is_last and completion.provider.validates else None
    chunk = {**_make_head(completion), "choices": [entry], "usage": usage}
    return Event(b"data: " + dump_json(chunk) + b"\n\n", stage="finish")


def _sends_usage_apart(completion: _Completion) -> bool:
    asked = bool((completion.body.get("stream_options") or {}).get("include_usage"))
    return not completion.provider.validates and (asked or completion.model.usage == "every")


def _make_streamed_response(call: Call, completion: _Completion) -> Response:
    first_s, pace_s = call.state.options.first_event_s, call.state.options.pace_s
    headers = make_headers(completion, first_s, None, call.get_request_id())
    return call.make_stream(_make_events(completion, first_s, pace_s), headers)


def _make_whole_response(call: Call, completion: _Completion) -> Response:
    first_s = call.state.options.first_event_s
    total_s = first_s + call.state.options.pace_s * completion.sent_tokens
    entries = []
    for choice in completion.choices:
        tokens = _make_tokens(completion, choice)
        entry = _make_entry(completion, choice, tokens, choice.finish_reason)
        _add_logprobs(completion, choice, entry, tokens, 0)
        entries.append(entry)
    payload = {**_make_head(completion), "choices": entries, "usage": completion.make_usage()}
    headers = make_headers(completion, first_s, total_s, call.get_request_id())
    return call.make_whole(payload, headers, total_s=total_s, tokens=completion.sent_tokens)
