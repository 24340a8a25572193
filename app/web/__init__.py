"""HTTP helpers for the routes and the application: hooks of every request, access, typed queries, responses.

application.py  Flask without the parts that a JSON API does not use
hooks.py        request id, error shape, log line
error_shapes.py the shape of errors below a path
similar_path.py the closest path to an unknown one; missing_apis.py  advice about APIs that the gateway lacks
access.py       which routes require a gateway key; credentials.py  the key sent with a request
client_address.py  the sender of a request, and whether it may see the gateway's internals
cors.py         programs in browsers
query.py        query strings read into typed Structs; json_body.py  bodies of the gateway's own API
content_coding.py  gzip in request bodies
responses.py    JSON, ETag, gzip
"""

from app.web.access import CHECKS, Access
from app.web.application import Application, Response, get_environ, get_state
from app.web.client_address import get_client_address, is_for_operator
from app.web.content_coding import decode_body, get_content_length, raise_if_unsupported
from app.web.credentials import get_authorization
from app.web.error_shapes import use_errors_below
from app.web.hooks import get_early_request_id, set_up_http, use_request_id
from app.web.json_body import MAX_BYTES as MAX_JSON_BYTES
from app.web.json_body import decode_json
from app.web.query import matching, one_of, read_query
from app.web.responses import NO_STORE, choose_content_type, conditional_response, json_response

# fmt: off
__all__ = [
    "CHECKS", "MAX_JSON_BYTES", "NO_STORE", "Access", "Application", "Response", "choose_content_type",
    "conditional_response", "decode_body", "decode_json", "get_authorization", "get_client_address",
    "get_content_length", "get_early_request_id", "get_environ", "get_state", "is_for_operator", "json_response",
    "matching", "one_of", "raise_if_unsupported", "read_query", "set_up_http", "use_errors_below", "use_request_id",
]
# fmt: on
