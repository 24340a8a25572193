"""Problems that the checks before the start find."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Problem(NamedTuple):
    """A problem.

    Attributes:
        text: the problem and its remedy, in one or two sentences.
        blocks: "start" if the gateway must not start because of it. "reload" if it may start, because the problem may
            pass or is bearable, but a gateway with the problem must not replace a serving one: if one of `settings` has
            changed, a reload is refused. None if it is only reported.
        settings: the names of the settings that cause it.
    """

    text: str
    blocks: Literal["start", "reload"] | None = None
    settings: tuple[str, ...] = ()
