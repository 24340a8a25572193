"""One inference request, whatever its endpoint.

pipeline.py         the story, top to bottom        exchange.py     what belongs to one request
admission.py        how many at once                json_body.py    strict JSON
validation.py       the body against its type       routing.py      the model → targets
adaptation.py       the body fitted to a target     dispatch.py     attempts and retries
circuit_breaker.py  failing fast                    cancellation.py the client disconnected, time is up, drain
metering.py         usage, cost and errors → record
"""

from app.services.inference.admission import get_live_requests
from app.services.inference.circuit_breaker import THRESHOLDS, OpenBreaker, get_open_breakers
from app.services.inference.exchange import Exchange
from app.services.inference.pipeline import GatewayResponse, Pipeline
from app.services.inference.routing import find_model

__all__ = [
    "THRESHOLDS",
    "Exchange",
    "GatewayResponse",
    "OpenBreaker",
    "Pipeline",
    "find_model",
    "get_live_requests",
    "get_open_breakers",
]
