"""One inference request, whatever its endpoint.

pipeline.py         the steps, in order             exchange.py     the state of one request
refusals.py         limit on refused requests       admission.py    limit on concurrent requests
json_body.py        strict JSON                     validation.py   the body against its type (choice_errors.py)
error_text.py       an error's text, for the record response_headers.py  the headers of a response
adaptation.py       the body for one target; omission.py and fitting.py fit it to the provider and the model
dispatch.py         tries at one target             reception.py    a whole response, or a stream?
target_selection.py the target, and the next ones; fallback.py: after which failures; attempts.py: their records
circuit_breaker.py  failing fast (open_breakers.py) account_probe.py  is the account refused, or a model?
dry_run.py          describes the outcome of a request   once.py   requests with an Idempotency-Key
cancellation.py     disconnect, deadline, drain     metering.py     usage, cost, errors → record; retry_digest.py
token_count.py, known_fields.py  a request's tokens, and fields unknown to its target; tracing.py: its trace
limited.py          a request under limits; ceiling.py: its cost at most; billing.py: that of a failure; output_limit.py
"""

from app.services.inference.admission import get_live_requests
from app.services.inference.circuit_breaker import THRESHOLDS
from app.services.inference.dry_run import DryRun, DryRuns
from app.services.inference.exchange import Exchange
from app.services.inference.once import serve_once
from app.services.inference.open_breakers import (
    OpenBreaker,
    count_refused_models,
    get_open_breaker,
    get_open_breakers,
    get_open_model_breakers,
)
from app.services.inference.pipeline import GatewayResponse, Pipeline
from app.services.inference.refusals import write_refusals
from app.services.inference.token_count import count_message_tokens
from app.services.inference.tracing import begin_trace
from app.services.inference.validation import raise_if_field_is_invalid

__all__ = [
    "THRESHOLDS", "DryRun", "DryRuns", "Exchange", "GatewayResponse", "OpenBreaker", "Pipeline", "begin_trace",
    "count_message_tokens", "count_refused_models", "get_live_requests", "get_open_breaker",
    "get_open_breakers", "get_open_model_breakers", "raise_if_field_is_invalid", "serve_once", "write_refusals",
]  # fmt: skip
