"""One request with an Idempotency-Key: it claims the key, finds an earlier answer, or keeps its own."""

from __future__ import annotations

from app.errors import BadRequest, Conflict, GatewayError
from app.logs import log_event
from app.runtime import get_component
from app.services.idempotency.answer import MAX_ANSWER_BYTES, KeptAnswer, decode_answer, encode_answer
from app.services.idempotency.cipher import KeyCipher, Unreadable
from app.services.idempotency.store import AnswerStore

# The same as Stripe's. A UUID has 36.
_MAX_CHARACTERS = 255
# How long an SDK waits before it checks again whether the first request has its answer.
_RETRY_AFTER_S = 2.0


class Claim:
    """The claim of one request; make it with `make_claim`.

    Attributes:
        is_held: whether this request is the first, so that it must end with `keep` or `release`.
        first_id: the id of the request whose answer was found.
    """

    def __init__(self, cipher: KeyCipher, id: bytes, *, key_id: str, request_id: str, path: str) -> None:
        self.is_held = False
        self.first_id: str | None = None
        self._store = get_component(AnswerStore)
        self._cipher, self._id = cipher, id
        self._key_id, self._request_id, self._path = key_id, request_id, path

    def open(self, content: bytes) -> KeptAnswer | None:
        """Returns the answer to an earlier request; None if this one is the first, and must be served.

        Args:
            content: the body.

        Raises:
            BadRequest: the key was used with another body or path.
            Conflict: the earlier request is still being served, or its answer was too long to be kept.
            GatewayError: the earlier request was lost with its worker.
            Unavailable: the database is away, or full.
        """
        digest = self._cipher.digest_request(self._path, content)
        found = self._store.claim(self._id, self._key_id, self._request_id, digest)
        if found is None:
            self.is_held = True
            return None
        if found.body_digest != digest:
            raise _make_mismatch()
        self.first_id = found.request_id
        if found.sealed is None:
            raise _make_lost(found.request_id) if found.is_lost else _make_running()
        try:
            kept = decode_answer(self._cipher.open(self._id, found.sealed))
        except (Unreadable, ValueError) as error:
            log_event("idempotency_answer_refused", level="error", error=error, request_id=found.request_id)
            raise _make_lost(found.request_id) from None
        if kept.is_too_long:
            raise _make_not_kept(found.request_id)
        return kept

    def keep(self, answer: KeptAnswer) -> None:
        """Keeps the answer of this request, if it is the first."""
        if not self.is_held:
            return
        self.is_held = False
        if len(answer.body) > MAX_ANSWER_BYTES:
            answer = KeptAnswer(status=answer.status, headers={}, body=b"", is_too_long=True)
        sealed = self._cipher.seal(self._id, encode_answer(answer))
        self._store.save(self._id, self._key_id, self._request_id, sealed)

    def release(self) -> None:
        """Forgets this request, which has cost nothing, so that the key can be used again."""
        if self.is_held:
            self.is_held = False
            self._store.release(self._id, self._key_id, self._request_id)


def make_claim(gateway_key: str, idempotency_key: str, *, key_id: str, request_id: str, path: str) -> Claim:
    """Returns the claim of a request that has not been read yet; the database is asked once its body is known.

    Args:
        gateway_key: the caller's key, as sent.
        idempotency_key: the value of the header.
        key_id: the public id of the gateway key.
        request_id: the id of the request.
        path: the path of the endpoint.

    Raises:
        BadRequest: the header is empty, too long, or has characters that are not printable ASCII.
    """
    text = idempotency_key.strip()
    if not text or len(text) > _MAX_CHARACTERS or not (text.isascii() and text.isprintable()):
        raise BadRequest(
            f"`Idempotency-Key` must have 1 to {_MAX_CHARACTERS} printable ASCII characters, such as a UUID.",
            param="idempotency-key",
            code="invalid_idempotency_key",
        )
    cipher = KeyCipher(gateway_key)
    return Claim(cipher, cipher.make_id(text), key_id=key_id, request_id=request_id, path=path)


def _make_mismatch() -> BadRequest:
    return BadRequest(
        "This Idempotency-Key was used with another body or path. Send another key with each new request, and the same "
        "body with each repetition.",
        status=422,
        param="idempotency-key",
        code="idempotency_key_reused",
    )


def _make_running() -> Conflict:
    return Conflict(
        "A request with this Idempotency-Key is still being served. Retry, to get its answer once it is there.",
        param="idempotency-key",
        code="idempotency_in_progress",
        retry_after_s=_RETRY_AFTER_S,
    )


def _make_lost(first_id: str) -> GatewayError:
    return GatewayError(
        f"The answer to the request with this Idempotency-Key was lost with the process that served it (request "
        f"{first_id}). A provider may have answered and charged for it, so it is not sent again. Send the request with "
        "another key if it may be paid for twice.",
        param="idempotency-key",
        code="idempotency_lost",
        should_retry=False,
    )


def _make_not_kept(first_id: str) -> Conflict:
    return Conflict(
        f"The request with this Idempotency-Key was answered (request {first_id}), but its answer was too long to be "
        "kept. Send the request with another key if it may be paid for twice.",
        param="idempotency-key",
        code="idempotency_not_kept",
        should_retry=False,
    )
