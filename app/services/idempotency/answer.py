"""A kept answer."""

from __future__ import annotations

import msgspec

# A longer answer is not kept: a worker has it in memory twice while it is encrypted. A thousand embeddings of 1,024
# numbers, or the longest text of any model with an event for each token, are shorter.
MAX_ANSWER_BYTES = 8 << 20


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An answer as it was sent, for the requests that repeat it.

    Attributes:
        status: its HTTP status.
        headers: those that describe it.
        body: all bytes of its body, in a stream also heartbeats; b"" if they were too many.
        model: the model as it was requested.
        is_stream: whether it was sent as events.
        is_complete: False for a stream that ended with an error and in an unfinished transfer.
        is_too_long: whether it had more than MAX_ANSWER_BYTES.
        error_type, error_code, error_param, error_message: as the record has them; None without an error.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    model: str | None = None
    is_stream: bool = False
    is_complete: bool = True
    is_too_long: bool = False
    error_type: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    error_message: str | None = None


_decode = msgspec.msgpack.Decoder(KeptAnswer).decode
encode_answer = msgspec.msgpack.Encoder().encode


def decode_answer(data: bytes) -> KeptAnswer:
    """Returns the answer that `encode_answer` wrote.

    Raises:
        msgspec.MsgspecError: it wrote something else.
    """
    return _decode(data)
