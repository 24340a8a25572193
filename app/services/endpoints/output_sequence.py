"""Orders the output of a chat stream into a sequence of items, for APIs whose streams have one open item at a time.

In a chat stream, reasoning, text and the pieces of several tool calls may arrive in any order, and a call's name may
come in pieces. Other APIs open an item, add to it and close it before the next. So an item waits until the one before
it is complete, and a call also until its name is known. In the usual case items arrive in sequence and nothing waits.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any, Protocol

import msgspec

from app.lenient_json import encode, replace_surrogates
from app.services.endpoints.chat_reading import Chunk, Delta, is_json_object, read_calls, read_token_logprobs
from app.services.endpoints.deltas import Calls, Pieces, finish


class ItemKind(Enum):
    """The kinds of items in the output."""

    REASONING = "reasoning"
    TEXT = "text"
    CALL = "call"


class ItemSink(Protocol):
    """Writes the items. Between `open_item` and `close_item` there are only calls of `add_to_item`."""

    def open_item(self, kind: ItemKind, call: CallHead | None) -> None:
        """Begins an item; `call` names the called tool."""
        ...

    def add_to_item(self, text: str, logprobs: list[Any] | None) -> None:
        """Adds a text, or a piece of a call's arguments, to the open item.

        Args:
            text: not empty.
            logprobs: the log probabilities of its tokens in chat's form, if the provider sent them.
        """
        ...

    def close_item(self, *, is_last: bool) -> None:
        """Ends the open item; a limit may have cut off the last item of the output."""
        ...


class CallHead(msgspec.Struct, gc=False):
    """The names and ids of a tool call; empty if the provider sent none."""

    id: str
    name: str


class _Item:
    """An item that is open or waiting.

    Attributes:
        call: the call as `Calls` keeps it; None for other kinds.
        waiting: texts not yet passed to the sink, with their log probabilities.
        sent: the number of pieces of the call's arguments that were passed to the sink.
    """

    __slots__ = ("call", "kind", "sent", "waiting")

    def __init__(self, kind: ItemKind, call: dict[str, Any] | None = None) -> None:
        self.kind = kind
        self.call = call
        self.waiting: list[tuple[str, list[Any] | None]] = []
        self.sent = 0


class OutputSequence:
    """Passes the output of one stream on to a sink, item by item.

    Only the first choice is passed on, because APIs with items have one.

    Args:
        sink: writes the items.

    Attributes:
        finish_reason: the finish reason of the choice, once it has arrived.
    """

    def __init__(self, sink: ItemSink) -> None:
        self.finish_reason: str | None = None
        self._sink = sink
        self._index: int | None = None
        self._calls = Calls()
        self._items_of_calls: dict[int, _Item] = {}
        self._open: _Item | None = None
        self._queue: deque[_Item] = deque()
        self._is_interleaved = False

    def add(self, chunk: Chunk) -> None:
        """Adds one chunk.

        Raises:
            UpstreamCut: there are more than a thousand tool calls.
        """
        for choice in chunk.choices:
            if self._index is None:
                self._index = choice.index
            if choice.index != self._index:
                continue
            self._add_delta(choice.delta, choice.logprobs)
            self.finish_reason = choice.finish_reason or self.finish_reason

    def _add_delta(self, delta: Delta, logprobs: Any) -> None:
        # Some providers send the same reasoning under both names.
        if reasoning := delta.reasoning_content or delta.reasoning:
            self._add_text(ItemKind.REASONING, reasoning, None)
        if delta.content:
            self._add_text(ItemKind.TEXT, delta.content, logprobs and read_token_logprobs(logprobs))
        if delta.tool_calls or delta.function_call:
            self._add_calls(delta.tool_calls or read_calls({"function_call": delta.function_call}))

    def _add_text(self, kind: ItemKind, text: str, logprobs: list[Any] | None) -> None:
        last = self._queue[-1] if self._queue else self._open
        if last is None or last.kind is not kind:
            last = _Item(kind)
            self._queue.append(last)
        if last is self._open:
            self._sink.add_to_item(text, logprobs)
            return
        last.waiting.append((text, logprobs))
        self._advance(is_last=False)

    def _add_calls(self, pieces: Any) -> None:
        for call, _ in self._calls.add(pieces):
            item = self._items_of_calls.get(id(call))
            if item is None:
                item = self._items_of_calls[id(call)] = _Item(ItemKind.CALL, call)
                self._queue.append(item)
            elif item is self._open:
                self._send_arguments(item)
        self._advance(is_last=False)

    def _advance(self, *, is_last: bool) -> None:
        """Opens waiting items, as far as each has the necessary data and the one before it is complete."""
        while self._queue:
            item = self._queue[0]
            if not is_last and not (self._is_ready(item) and self._is_over(self._open)):
                return
            self._queue.popleft()
            if item.call is not None and is_last and not _is_call(item.call):
                continue
            self._close()
            self._begin(item)

    def _is_ready(self, item: _Item) -> bool:
        """Returns whether an item can be opened. A call needs a name, to which a further piece may still add."""
        if item.call is None:
            return True
        return bool(_get_name(item.call)) and (len(self._queue) > 1 or bool(_get_argument_pieces(item.call)))

    def _is_over(self, item: _Item | None) -> bool:
        """Returns whether an item is complete.

        A call is complete once its arguments are a whole object. If something else begins before that, pieces are
        interleaved, and everything else waits for the end of the stream: checking again after each piece would take
        quadratic time.
        """
        if item is None or item.call is None:
            return True
        if not self._is_interleaved:
            self._is_interleaved = not is_json_object("".join(_get_argument_pieces(item.call)))
        return not self._is_interleaved

    def _begin(self, item: _Item) -> None:
        self._open = item
        if item.call is not None:
            call_id = finish(item.call.get("id"))
            head = CallHead(replace_surrogates(call_id) if isinstance(call_id, str) else "", _get_name(item.call))
            self._sink.open_item(item.kind, head)
            self._send_arguments(item)
            return
        self._sink.open_item(item.kind, None)
        for text, logprobs in item.waiting:
            self._sink.add_to_item(text, logprobs)
        item.waiting.clear()

    def _send_arguments(self, item: _Item) -> None:
        assert item.call is not None
        pieces = _get_argument_pieces(item.call)
        if text := "".join(pieces[item.sent :]):
            self._sink.add_to_item(text, None)
        item.sent = len(pieces)

    def _close(self, *, is_last: bool = False) -> None:
        if self._open is not None:
            self._sink.close_item(is_last=is_last)
            self._open = None

    def finish(self) -> None:
        """Passes on everything that waits, and closes the last item. Call it only at the end of a complete stream."""
        self._advance(is_last=True)
        self._close(is_last=True)


def _get_function(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    return function if isinstance(function, dict) else {}


def _get_name(call: dict[str, Any]) -> str:
    name = finish(_get_function(call).get("name"))
    return replace_surrogates(name) if isinstance(name, str) else ""


def _get_argument_pieces(call: dict[str, Any]) -> list[str]:
    """Returns the arguments of a call in pieces; values other than text are encoded as JSON."""
    arguments = _get_function(call).get("arguments")
    if isinstance(arguments, Pieces):
        return arguments
    if isinstance(arguments, str) or not arguments:
        return [arguments] if arguments else []
    return [encode(arguments).decode()]  # Some providers send them as an object.


def _is_call(call: dict[str, Any]) -> bool:
    return bool(_get_name(call) or _get_argument_pieces(call))
