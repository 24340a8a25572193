"""The error bodies of the four providers, in their real forms.

Fireworks has two forms: that of the front gateway (with `param` and `request_id`) and that of the model server (with
`object`); its edge sends HTML. A `request_id` is filled in when the response is made.
"""

from dataclasses import dataclass, replace
from typing import Any

from app.sandbox.web import Headers, Request, Response, make_json_response, make_response

_REQUEST_ID = "request_id"


@dataclass(frozen=True)
class Failure:
    """An error response: HTTP status, JSON body (or text), extra headers."""

    status: int
    body: dict[str, Any] | str
    headers: Headers = ()

    def with_message(self, message: str) -> "Failure":
        """Returns the same failure with another message."""
        body = self.body
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            return replace(self, body=body | {"error": body["error"] | {"message": message}})
        return replace(self, body={"detail": message} if isinstance(body, dict) else message)

    def to_response(self, request: Request) -> Response:
        """Returns the response, with the id of the request if the form has one."""
        headers = (("x-request-id", request.get_header("x-request-id") or request.id_hex), *self.headers)
        if isinstance(self.body, str):
            kind = "text/html" if self.body.startswith("<") else "text/plain"
            return make_response(self.status, f"{kind}; charset=utf-8", self.body.encode(), headers)
        body = dict(self.body)
        if _REQUEST_ID in body:
            body[_REQUEST_ID] = "chatcmpl-" + request.id_hex
        return make_json_response(self.status, body, headers)


class RequestRefused(Exception):
    """The request ends with this failure; may be raised at any point before the response."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure.status))
        self.failure = failure


def make_front_failure(
    status: int, message: str, code: str, param: str | None = None, headers: Headers = ()
) -> Failure:
    """Returns an error of Fireworks' front gateway: keys, routing, billing."""
    error = {"message": message, "param": param, "code": code, "type": "error"}
    return Failure(status, {"error": error, _REQUEST_ID: None}, headers)


def make_server_failure(
    status: int, message: str, kind: str = "invalid_request_error", headers: Headers = ()
) -> Failure:
    """Returns an error of Fireworks' model server: validation, overload."""
    error = {"object": "error", "type": kind, "code": kind, "message": message}
    return Failure(status, {"error": error, _REQUEST_ID: None}, headers)


def make_featherless_failure(status: int, message: str, kind: str, code: str) -> Failure:
    """Returns an error of Featherless."""
    return Failure(status, {"error": {"message": message, "type": kind, "code": code}})


def make_deepinfra_failure(status: int, message: str, kind: str, code: str | None = None) -> Failure:
    """Returns an error of DeepInfra's OpenAI surface."""
    return Failure(status, {"error": {"message": message, "type": kind, "param": None, "code": code}})


def make_chutes_failure(status: int, detail: str) -> Failure:
    """Returns an error of Chutes, which has no `error` key."""
    return Failure(status, {"detail": detail})


SERVER_ERROR_TEXT = "server had an error while processing your request, please retry again after a brief wait"
SERVER_ERROR_KIND = "internal_server_error"
_OVERLOADED = "service overloaded, please try again later"
_SUSPENDED = (
    "Account sandbox-account is suspended, possibly due to reaching the monthly spending limit or failure to"
    " pay past invoices. Please go to https://fireworks.ai/account/billing for more information."
)
_HTML_502 = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1>"
    "</center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"
)
# A real 429 had these and no retry-after: the limit on generated tokens had just been lowered.
_LIMIT_HEADERS: Headers = (
    ("x-ratelimit-limit-tokens-prompt", "21600000"),
    ("x-ratelimit-remaining-tokens-prompt", "21590112"),
    ("x-ratelimit-limit-tokens-cache-adjusted-prompt", "5400000"),
    ("x-ratelimit-remaining-tokens-cache-adjusted-prompt", "5390112"),
    ("x-ratelimit-limit-tokens-generated", "36000"),
    ("x-ratelimit-remaining-tokens-generated", "0"),
    ("x-ratelimit-over-limit", "no"),
)
_RATE_LIMITED = make_server_failure(429, "rate limit exceeded, please try again later", headers=_LIMIT_HEADERS)

FIREWORKS_FAILURES: dict[str, Failure] = {
    "400": make_front_failure(400, "The request body is not a JSON object", "BAD_REQUEST"),
    "401": make_front_failure(401, "The API key you provided is invalid.", "UNAUTHORIZED"),
    "402": make_front_failure(402, "Payment required: add a payment method to go on.", "PAYMENT_REQUIRED"),
    "403": make_front_failure(403, "This key has no access to the model.", "FORBIDDEN", "model"),
    "404": make_front_failure(404, "Model not found, inaccessible, and/or not deployed", "NOT_FOUND", "model"),
    "412": make_front_failure(412, _SUSPENDED, "PRECONDITION_FAILED"),
    "422": Failure(422, {"detail": [{"loc": ["body", "messages"], "msg": "field required", "type": "missing"}]}),
    "429": _RATE_LIMITED,
    "500": make_server_failure(500, SERVER_ERROR_TEXT, SERVER_ERROR_KIND),
    "502-html": Failure(502, _HTML_502),
    "503": Failure(503, {"error": {"message": _OVERLOADED}}),
    "503-scaling": make_front_failure(503, "Deployment is scaling up, please retry", "DEPLOYMENT_SCALING_UP"),
}
FEATHERLESS_FAILURES: dict[str, Failure] = {
    "400": make_featherless_failure(400, "Invalid request body", "invalid_request_error", "bad_request"),
    "401": make_featherless_failure(401, "Invalid API key", "authentication_error", "invalid_api_key"),
    "402": make_featherless_failure(402, "Out of credits", "billing_error", "insufficient_credits"),
    "403": make_featherless_failure(403, "This model is gated", "permission_error", "gated_model"),
    "404": make_featherless_failure(404, "The model does not exist", "invalid_request_error", "model_not_found"),
    "429": make_featherless_failure(
        429, "Concurrency limit exceeded", "rate_limit_error", "concurrency_limit_exceeded"
    ),
    "500": make_featherless_failure(500, "Internal error", "server_error", "internal_error"),
    "503": make_featherless_failure(503, "No executor available", "server_error", "capacity_exhausted"),
}
DEEPINFRA_FAILURES: dict[str, Failure] = {
    "400": make_deepinfra_failure(400, "Invalid request body", "invalid_request_error"),
    "401": make_deepinfra_failure(401, "Invalid API key", "authentication_error", "invalid_api_key"),
    "402": Failure(402, {"detail": {"error": "No payment method on file"}}),
    "403": Failure(403, {"detail": {"error": "Not authenticated"}}),
    "404": make_deepinfra_failure(404, "The model does not exist", "invalid_request_error"),
    "429": make_deepinfra_failure(429, "Model busy, retry later", "rate_limit_error", "engine_overloaded"),
    "500": make_deepinfra_failure(500, "Internal error", "server_error"),
    "503": make_deepinfra_failure(503, "Service unavailable", "server_error"),
}
CHUTES_FAILURES: dict[str, Failure] = {
    "400": make_chutes_failure(400, "Invalid request body"),
    "401": make_chutes_failure(401, "Authentication required."),
    "402": make_chutes_failure(402, "Quota exceeded and account balance is $0.0"),
    "403": make_chutes_failure(403, "Permission denied"),
    "404": make_chutes_failure(404, "No matching chute found!"),
    "429": make_chutes_failure(429, "Infrastructure is at maximum capacity, try again later"),
    "500": make_chutes_failure(500, "Internal server error"),
    "503": make_chutes_failure(503, "No instances available (yet) for the chute"),
}
