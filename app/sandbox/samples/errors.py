"""The reasons why a schema has no sample."""

from collections.abc import Iterable

# The most schemas and values examined for one sample: a quarter of a second of work.
_MAX_STEPS = 100_000


class UnsupportedSchema(Exception):
    """The sandbox cannot make a value for the schema; the text gives the place and the reason."""


class NoSample(Exception):
    """The sandbox finds no value for this part of the schema; another alternative may have one.

    Args:
        reason: a clause such as "no whole number lies between the bounds".
        path: the names and positions that lead from the outermost value to the part.
    """

    def __init__(self, reason: str, path: Iterable[str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = tuple(path)

    def below(self, name: str) -> "NoSample":
        """Returns the same failure, as seen from the value that has the part as `name`."""
        return NoSample(self.reason, (name, *self.path))

    def describe(self) -> str:
        """Returns the failure as a sentence."""
        return f"at {'.'.join(('$', *self.path))}: {self.reason}"


class Budget:
    """The bound on the work for one sample."""

    def __init__(self) -> None:
        self._left = _MAX_STEPS

    def spend(self, steps: int = 1) -> None:
        """Counts steps; raises UnsupportedSchema when the limit is reached."""
        self._left -= steps
        if self._left < 0:
            raise UnsupportedSchema("a value for it would be too large, or too long to find. Simplify the schema.")
