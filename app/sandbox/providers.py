"""The four providers that the sandbox imitates: their paths, error bodies, model lists and streams."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.sandbox.chutes_models import find_chutes_model, list_chutes_models
from app.sandbox.deepinfra_models import find_deepinfra_model, list_deepinfra_models
from app.sandbox.failures import (
    CHUTES_FAILURES,
    DEEPINFRA_FAILURES,
    FEATHERLESS_FAILURES,
    FIREWORKS_FAILURES,
    SERVER_ERROR_KIND,
    SERVER_ERROR_TEXT,
    Failure,
    RequestRefused,
)
from app.sandbox.featherless_models import find_featherless_model, list_featherless_models
from app.sandbox.fireworks_models import find_fireworks_model, list_fireworks_models
from app.sandbox.models import ChatModel
from app.sandbox.state import Options
from app.sandbox.web import Headers, Request, dump_json

# Featherless' edge sends 404 "Gone." to the default agents of common HTTP libraries.
_REFUSED_AGENTS = ("", "node", "node-fetch", "undici", "python-urllib", "python-requests")


@dataclass(frozen=True)
class Provider:
    """One provider."""

    name: str
    base: str
    failures: dict[str, Failure]
    list_models: Callable[[Options, dict[str, str]], bytes | None]
    """Returns the body of GET /models for a query; None if the query is invalid."""
    find_model: Callable[[Options, str], ChatModel | None]
    stream_error: bytes
    """The bytes sent for a failure in the middle of a stream, including line ends."""
    models_need_key: bool = False
    refuses_agents: bool = False
    validates: bool = False
    reasoning_key: str = "reasoning_content"
    estimates_cost: bool = False
    keeps_books: bool = False
    """It publishes a bill later, so it has to remember its use."""
    embeds: bool = True
    """It serves /embeddings below its base URL."""
    gives_logprobs: bool = True
    noise: tuple[bytes, ...] = ()
    """Lines that begin its streams, before the chunks."""
    headers: Headers = ()

    def get_failure(self, kind: str) -> Failure:
        """Returns this provider's form of a failure, such as `401` or `502-html`.

        Failures that only Fireworks is known to send are the same at all providers.
        """
        return self.failures.get(kind) or FIREWORKS_FAILURES[kind]

    def raise_if_agent_refused(self, request: Request) -> None:
        """Raises RequestRefused for the default User-Agent of a library, if the provider refuses those."""
        agent = request.get_header("user-agent").partition("/")[0].lower()
        if self.refuses_agents and agent in _REFUSED_AGENTS:
            raise RequestRefused(Failure(404, "Gone."))

    def raise_if_key_refused(self, request: Request) -> None:
        """Raises RequestRefused unless the request has a bearer key that does not begin with "bad"."""
        if not request.bearer or request.bearer.startswith("bad"):
            raise RequestRefused(self.get_failure("401"))


def _frame(value: Any) -> bytes:
    return b"data: " + dump_json(value) + b"\n\n"


_CAPACITY = {
    "object": "error",
    "error": {"message": "No capacity left", "type": "server_error", "code": "capacity_exhausted"},
}
_INTERNAL = {"error": {"message": SERVER_ERROR_TEXT, "type": SERVER_ERROR_KIND, "code": SERVER_ERROR_KIND}}

FIREWORKS = Provider(
    name="fireworks",
    base="/inference/v1",
    failures=FIREWORKS_FAILURES,
    list_models=lambda options, query: dump_json(list_fireworks_models()),
    find_model=lambda options, name: find_fireworks_model(name),
    stream_error=_frame(_INTERNAL),
    models_need_key=True,
    validates=True,
    keeps_books=True,
)
FEATHERLESS = Provider(
    name="featherless",
    base="/featherless/v1",
    failures=FEATHERLESS_FAILURES,
    list_models=lambda options, query: list_featherless_models(options.featherless_models, query),
    find_model=lambda options, name: find_featherless_model(options.featherless_models, name),
    stream_error=_frame(_CAPACITY),
    refuses_agents=True,
    reasoning_key="reasoning",
    gives_logprobs=False,
    noise=(b": FEATHERLESS PROCESSING\n\n", b"data: null\n\n"),
)
DEEPINFRA = Provider(
    name="deepinfra",
    base="/deepinfra/v1/openai",
    failures=DEEPINFRA_FAILURES,
    list_models=lambda options, query: dump_json(list_deepinfra_models()),
    find_model=lambda options, name: find_deepinfra_model(name),
    stream_error=_frame({"error": {"message": "Internal error", "type": "server_error", "code": None}}),
    estimates_cost=True,
)
CHUTES = Provider(
    name="chutes",
    base="/chutes/v1",
    failures=CHUTES_FAILURES,
    list_models=lambda options, query: dump_json(list_chutes_models()),
    find_model=lambda options, name: find_chutes_model(name),
    # Chutes sends this line bare, without `data:`.
    stream_error=dump_json({"error": "Unhandled exception during response stream: sandbox"}) + b"\n\n",
    gives_logprobs=False,
    embeds=False,  # On a separate host for each model.
    headers=(("x-chutes-invocationid", "sandbox"), ("x-chutes-rl-user", "inf")),
)
PROVIDERS = (FIREWORKS, FEATHERLESS, DEEPINFRA, CHUTES)
