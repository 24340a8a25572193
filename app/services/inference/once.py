"""Requests with an Idempotency-Key: the first is served and its answer kept; repetitions get that answer.

The first request is served to its end even if its client leaves, because that is when clients repeat it. An answer that
may have been paid for is kept, even an error; a request that cost nothing is forgotten, so a repetition is served.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from app.errors import FAILED, GatewayError
from app.services.idempotency import MAX_ANSWER_BYTES, Claim, KeptAnswer
from app.services.inference.billing import BILLED_STATUSES, CONNECT_CODES, may_be_billed
from app.services.inference.error_text import make_error_text
from app.services.inference.exchange import Exchange
from app.services.inference.pipeline import GatewayResponse, Pipeline
from app.services.limits import Charge
from app.services.streaming import Channel, Relay

# Headers that are about one transfer and not part of a kept answer.
_OF_THE_TRANSFER = frozenset({"server-timing"})
# A replay counts for rates like any request, but for no budget.
_OF_A_REPLAY = Charge(cost=0, tokens=0, requests=1, rate_tokens=0)


class _Replayed(Exception):
    """Raised to leave the pipeline: the request is finished, because its answer was found."""

    def __init__(self, kept: KeptAnswer, first_id: str) -> None:
        super().__init__("the answer was found")
        self.kept, self.first_id = kept, first_id


def serve_once(
    pipeline: Pipeline, exchange: Exchange, make_claim: Callable[[], Claim], read_body: Callable[[], bytes]
) -> GatewayResponse:
    """Serves a request with an Idempotency-Key, or returns the answer of an earlier one.

    Args:
        pipeline: serves it.
        exchange: the request; its client never leaves.
        make_claim: makes its claim; it raises GatewayError if the header is wrong.
        read_body: as in `Pipeline.serve`.

    Raises:
        GatewayError: as `Pipeline.serve`, `make_claim` and `Claim.open`.
    """
    once = _Once(exchange, make_claim, read_body)
    try:
        served = pipeline.serve(exchange, once.read)
    except _Replayed as replayed:
        return _make_replay(replayed)
    except GatewayError as error:
        once.end(error)
        raise
    except BaseException:
        once.end(GatewayError(FAILED))
        raise
    once.headers = {name: value for name, value in served.headers.items() if name not in _OF_THE_TRANSFER}
    if isinstance(served.body, bytes):
        once.keep(served.body)
        return served
    assert isinstance(served.body, Relay)
    served.body = KeptStream(served.body, once.keep_stream)
    return served


class _Once:
    """One request and its claim. The claim exists once the body has been read.

    Attributes:
        headers: the headers of a successful answer.
    """

    def __init__(self, exchange: Exchange, make_claim: Callable[[], Claim], read_body: Callable[[], bytes]) -> None:
        self.headers: dict[str, str] = {}
        self._exchange = exchange
        self._make_claim, self._read_body = make_claim, read_body
        self._claim: Claim | None = None

    def read(self) -> bytes:
        """Returns the body of a request that must be served.

        Raises:
            _Replayed: it was answered before; it is finished.
            GatewayError: as `serve_once`.
        """
        content = self._read_body()
        claim = self._claim = self._make_claim()
        kept = claim.open(content)
        if kept is not None:
            first_id = claim.first_id or ""
            _finish_replay(self._exchange, first_id, kept)
            raise _Replayed(kept, first_id)
        return content

    def keep(self, body: bytes) -> None:
        """Keeps a whole response."""
        self._keep(KeptAnswer(status=200, headers=self.headers, body=body, model=self._exchange.record.model_requested))

    def keep_stream(self, body: bytes, is_complete: bool) -> None:
        """Keeps a stream, whose record is written."""
        record = self._exchange.record
        self._keep(
            KeptAnswer(
                status=200,
                headers=self.headers,
                body=body,
                model=record.model_requested,
                is_stream=True,
                is_complete=is_complete,
                error_type=record.error_type,
                error_code=record.error_code,
                error_param=record.error_param,
                error_message=record.error_message,
            )
        )

    def end(self, error: GatewayError) -> None:
        """Keeps an error if the request may have to be paid for, else forgets the request."""
        exchange = self._exchange
        if not _may_be_paid(exchange, error):
            if self._claim is not None:
                self._claim.release()
            return
        shape = exchange.endpoint.errors
        self._keep(
            KeptAnswer(
                status=shape.get_status(error),
                headers=error.headers(),
                body=shape.make_body(error, exchange.request_id),
                model=exchange.record.model_requested,
                error_type=error.type,
                error_code=error.code,
                error_param=error.param,
                error_message=make_error_text(error.message),
            )
        )

    def _keep(self, answer: KeptAnswer) -> None:
        assert self._claim is not None
        self._claim.keep(answer)


def _may_be_paid(exchange: Exchange, error: GatewayError) -> bool:
    """Returns whether an attempt of a request that ended with an error may have to be paid for."""
    if not exchange.is_sent:
        return False
    made = [attempt for attempt in exchange.record.attempts if attempt.get("ms") is not None]
    return any(map(_is_billed, made)) if made else may_be_billed(error)


def _is_billed(attempt: dict[str, Any]) -> bool:
    status = attempt["status"]
    if status is None:
        return attempt["error"] not in CONNECT_CODES
    return status < 400 or status in BILLED_STATUSES


def _finish_replay(exchange: Exchange, first_id: str, kept: KeptAnswer) -> None:
    """Ends a request that is not served, with a record that names the first one."""
    record, limited = exchange.record, exchange.limited
    record.replay_of, record.model_requested, record.stream = first_id, kept.model, kept.is_stream
    record.error_type, record.error_code = kept.error_type, kept.error_code
    record.error_param, record.error_message = kept.error_param, kept.error_message
    if limited is not None:
        limited.charge, limited.headers = _OF_A_REPLAY, limited.get_headers()
    exchange.finish("ok" if kept.error_type is None else "rejected", kept.status)


def _make_replay(replayed: _Replayed) -> GatewayResponse:
    kept = replayed.kept
    headers = kept.headers | {"idempotent-replayed": "true", "x-gateway-replay-of": replayed.first_id}
    if kept.status >= 400:
        headers["x-should-retry"] = "false"  # The same answer would come again.
    return GatewayResponse(ReplayedStream(kept) if kept.is_stream else kept.body, headers, kept.status)


class ReplayedStream:
    """Iterates over the bytes of a kept stream and ends as that stream did."""

    def __init__(self, kept: KeptAnswer) -> None:
        self._kept = kept
        self._is_sent = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._is_sent:
            self._is_sent = True
            return self._kept.body
        if self._kept.is_complete:
            raise StopIteration
        raise BrokenPipeError(errno.EPIPE, "the stream did not complete")


class KeptStream:
    """Relays a stream and keeps its bytes. If the client leaves, the rest is received for later repetitions.

    Args:
        relay: the stream.
        keep: called once with all bytes, or slightly more than are kept, and whether the stream was complete.
    """

    def __init__(self, relay: Relay, keep: Callable[[bytes, bool], None]) -> None:
        self._relay = relay
        self._keep: Callable[[bytes, bool], None] | None = keep
        self._blocks: list[bytes] = []
        self._bytes = 0
        self._recorder: _Recorder | None = None

    def attach(self, channel: Channel) -> None:
        """Lets events go directly to the client, as `Relay.attach` does."""
        self._recorder = _Recorder(channel, self.add)
        self._relay.attach(self._recorder)

    def add(self, block: bytes) -> None:
        """Keeps bytes that are sent to the client."""
        if self._bytes <= MAX_ANSWER_BYTES:
            self._blocks.append(block)
            self._bytes += len(block)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            block = next(self._relay)
        except StopIteration:
            self._end(is_complete=True)
            raise
        except BrokenPipeError:
            self._end(is_complete=False)
            raise
        self.add(block)
        return block

    def _end(self, *, is_complete: bool) -> None:
        keep, self._keep = self._keep, None
        if keep is not None:
            keep(b"".join(self._blocks), is_complete)

    def close(self) -> None:
        """Ends the stream; if the client has left, only after the provider has ended it."""
        try:
            if self._keep is not None:
                if self._recorder is not None:
                    self._recorder.is_gone = True
                with suppress(BrokenPipeError):
                    for _ in self:
                        pass
        finally:
            self._relay.close()


class _Recorder:
    """Keeps the events, and passes them on to the client until it leaves."""

    def __init__(self, channel: Channel, add: Callable[[bytes], None]) -> None:
        self._channel = channel
        self._add = add
        self.is_gone = False

    def push(self, block: bytes) -> bool:
        """Sends as much of `block` as the client accepts at once."""
        self._add(block)
        if self.is_gone:
            return True
        try:
            return self._channel.push(block)
        except OSError:
            self.is_gone = True
            return True

    def get_raw_socket(self) -> None:
        """Returns None, because the events must pass through this object."""

    def keep_unsent(self, rest: bytes) -> None:
        """Never called, because nothing is written to the socket directly."""
        self._channel.keep_unsent(rest)

    def flush(self) -> None:
        """Waits until the client has accepted the rest or is gone."""
        if self.is_gone:
            return
        try:
            self._channel.flush()
        except OSError:
            self.is_gone = True
