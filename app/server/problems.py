"""Problems that the checks before the start find."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Problem(NamedTuple):
    """A problem.

    Attributes:
        text: what is wrong and what to do about it, in one sentence or two.
        blocks: "start" if the gateway must not start because of it. "reload" if it may start, because the problem may
            pass or is bearable, but a gateway that serves must not be replaced by one that has it: if one of `settings`
            is another one than before, a reload is refused. None if it is only told.
        settings: the names of the settings that it comes from.
    """

    text: str
    blocks: Literal["start", "reload"] | None = None
    settings: tuple[str, ...] = ()
