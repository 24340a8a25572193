"""A kept answer."""

from __future__ import annotations

import msgspec

# A longer answer is not kept, because a worker has it in memory twice while it is encrypted. A thousand embeddings of
# 1,024 numbers, or the longest text of any model with an event for each token, are shorter.
MAX_ANSWER_BYTES = 8 << 20


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An answer as sent, for repetitions of its request.

    Attributes:
        status: its HTTP status.
        headers: the headers that describe it.
        body: all bytes of its body, including a stream's heartbeats; b"" if they were too many.
        model: the requested model.
        is_stream: whether it was sent as events.
        is_complete: False for a stream that ended with an error and in an unfinished transfer.
        is_too_long: whether it had more than MAX_ANSWER_BYTES.
        error_type, error_code, error_param, error_message: as on the record; None without an error.
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
        msgspec.MsgspecError: the data is not from `encode_answer`.
    """
    return _decode(data)
