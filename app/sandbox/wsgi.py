"""The WSGI app of the sandbox: its routes, its counters, and the header that marks its responses."""

from collections.abc import Callable, Iterable
from urllib.parse import unquote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from app.sandbox.behaviours import describe_behaviours
from app.sandbox.chat import handle_chat
from app.sandbox.control_plane import (
    ACCOUNTS_PATH,
    BOOKS_PATH,
    COSTS_PATH,
    USAGE_PATH,
    change_books,
    list_accounts,
    query_costs,
    show_usage,
)
from app.sandbox.embeddings import handle_embeddings
from app.sandbox.failures import Failure, RequestRefused
from app.sandbox.featherless_models import get_featherless_entry
from app.sandbox.fireworks_models import list_serverless_models
from app.sandbox.providers import FEATHERLESS, FIREWORKS, PROVIDERS, Provider
from app.sandbox.rerank import DEEPINFRA_MODELS, handle_deepinfra_rerank, handle_fireworks_rerank
from app.sandbox.state import Options, State
from app.sandbox.text_completions import handle_completion
from app.sandbox.web import Request, Response, make_json_response, make_response, read_request

Handler = Callable[[Request], Response]
_STATS_PATH = "/sandbox/stats"
_EXAMPLE = "accounts/fireworks/models/deepseek-v3p1"
_MARK = (("x-sandbox", "1"),)


def create_app(options: Options) -> WSGIApplication:
    """Returns a sandbox with its own counters."""
    state = State(options)
    routes = _make_routes(state)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = read_request(environ)
        if request.path == _STATS_PATH:
            return make_json_response(200, state.stats.get_summary(), _MARK).send(start_response)
        if request.path == BOOKS_PATH:
            return change_books(state, request).send(start_response)
        # Counted on arrival: a request that is still waiting for its response has been received.
        state.stats.requests += 1
        state.stats.by_path[request.path] += 1
        try:
            response = _dispatch(routes, state, request)
        except RequestRefused as refused:
            response = refused.failure.to_response(request)
        state.stats.by_status[str(response.status)] += 1
        response.headers = _MARK + response.headers
        return response.send(start_response)

    return app


def _make_routes(state: State) -> dict[tuple[str, str], Handler]:
    routes: dict[tuple[str, str], Handler] = {
        ("GET", "/"): lambda request: make_json_response(200, _describe(request)),
        ("GET", "/v1/serverless/models"): _list_serverless,
        ("GET", ACCOUNTS_PATH): list_accounts,
        ("GET", USAGE_PATH): lambda request: show_usage(state, request),
        ("POST", COSTS_PATH): lambda request: query_costs(state, request),
    }
    for provider in PROVIDERS:
        routes["GET", provider.base + "/models"] = _bind_models(provider, state)
        routes["POST", provider.base + "/chat/completions"] = _bind(handle_chat, provider, state)
        routes["POST", provider.base + "/completions"] = _bind(handle_completion, provider, state)
        if provider.embeds:
            routes["POST", provider.base + "/embeddings"] = _bind(handle_embeddings, provider, state)
    routes["POST", FIREWORKS.base + "/rerank"] = lambda request: handle_fireworks_rerank(state, request)
    return routes


def _bind_models(provider: Provider, state: State) -> Handler:
    return lambda request: _list_models(provider, state, request)


def _bind(handle: Callable[[Provider, State, Request], Response], provider: Provider, state: State) -> Handler:
    return lambda request: handle(provider, state, request)


def _dispatch(routes: dict[tuple[str, str], Handler], state: State, request: Request) -> Response:
    handler = routes.get((request.method, request.path))
    if handler:
        return handler(request)
    entries = FEATHERLESS.base + "/models/"
    if request.method == "GET" and request.path.startswith(entries):
        return _show_featherless_model(state, request, unquote(request.path.removeprefix(entries)))
    if request.method == "POST" and request.path.startswith(DEEPINFRA_MODELS):
        return handle_deepinfra_rerank(state, request, unquote(request.path.removeprefix(DEEPINFRA_MODELS)))
    allowed = ", ".join(method for method, path in routes if path == request.path)
    if allowed:
        raise RequestRefused(Failure(405, {"error": "Method Not Allowed"}, (("allow", allowed),)))
    raise RequestRefused(Failure(404, {"error": f"Path not found: {request.path}"}))


def _list_models(provider: Provider, state: State, request: Request) -> Response:
    provider.raise_if_agent_refused(request)
    if provider.models_need_key:
        provider.raise_if_key_refused(request)
    body = provider.list_models(state.options, request.query)
    if body is None:
        raise RequestRefused(provider.get_failure("400"))
    return make_response(200, "application/json", body)


def _show_featherless_model(state: State, request: Request, name: str) -> Response:
    FEATHERLESS.raise_if_agent_refused(request)
    entry = get_featherless_entry(state.options.featherless_models, name)
    if entry is None:
        raise RequestRefused(FEATHERLESS.get_failure("404"))
    return make_json_response(200, entry)


def _list_serverless(request: Request) -> Response:
    FIREWORKS.raise_if_key_refused(request)
    return make_json_response(200, list_serverless_models())


def _describe(request: Request) -> dict[str, object]:
    """Returns the content of GET /: a description of the sandbox and things to try."""
    root = "http://" + request.get_header("host")
    return {
        "sandbox": "A local stand-in for the providers' APIs. No model runs here; all responses are made up.",
        "key": "Any bearer key that does not begin with 'bad'.",
        "base_urls": {provider.name: root + provider.base for provider in PROVIDERS},
        "prices": root + "/v1/serverless/models",
        "counters": root + _STATS_PATH,
        "books": root + BOOKS_PATH,
        "try": {
            "model": _EXAMPLE,
            "long responses": "Ask for 'Write 500 words' to get 500 tokens.",
            "scripted responses": 'Ask \'@sandbox {"text": "Hello"}\' to get "Hello".',
        },
        "documentation": "docs/sandbox.md",
        "models_that_misbehave": {
            "accounts/fireworks/models/" + name: text for name, text in describe_behaviours().items()
        },
        "numbers": "A number at the end of such a name replaces the default: sandbox-cut-after-7.",
    }
