"""The books of the sandbox: its served use as Fireworks, by UTC day and model, and the resulting bill.

The bill is the books with planted gaps, so that a reconciliation has something to find:

    {"gap": "missing_day", "day": "2026-11-03"}                     the bill lacks a day
    {"gap": "missing_model", "model": "accounts/…"}                 or a model
    {"gap": "double", "model": "accounts/…"}                        bills everything of a model twice
    {"gap": "price", "model": "accounts/…", "factor": "1.1"}        charges another price than the list says
    {"gap": "aborted", "bills": "whole"}                            bills streams that clients left as if they had not
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from app.sandbox.fireworks_models import get_token_prices

_NANO = Decimal("0.000000001")


@dataclass(frozen=True)
class Entry:
    """The use of one model on one day with one tag; tokens and USD."""

    day: date
    model: str
    prompt_tokens: int
    completion_tokens: int
    usd: Decimal
    tag: str = ""
    """The project in the header Fireworks-Annotations."""
    unsent_tokens: int = 0
    """The parts of answers that clients did not wait for."""
    unsent_usd: Decimal = Decimal(0)


@dataclass(frozen=True)
class Billed:
    """The billed figures of one model on one day, with one tag."""

    day: date
    model: str
    tag: str
    prompt_tokens: int
    completion_tokens: int
    usd: Decimal

    @property
    def money(self) -> dict[str, Any]:
        """The amount in whole dollars and billionths, rounded."""
        rounded = self.usd.quantize(_NANO)
        return {
            "currencyCode": "USD",
            "units": str(int(rounded)),
            "nanos": int((rounded - int(rounded)).scaleb(9)),
        }


@dataclass
class Booking:
    """A request that is being answered, and the cost of its whole response."""

    books: "Books"
    model: str
    prices: tuple[Decimal, Decimal, Decimal]
    tag: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    def close(self, sent_tokens: int, *, is_finished: bool) -> None:
        """Books the request: the whole answer if it is finished, else the part that was sent."""
        completion = self.completion_tokens if is_finished else sent_tokens
        unsent = max(self.completion_tokens - completion, 0)
        uncached, cached, output = self.prices
        prompt_usd = (self.prompt_tokens - self.cached_tokens) * uncached + self.cached_tokens * cached
        self.books.add(
            Entry(
                datetime.now(UTC).date(),
                self.model,
                self.prompt_tokens,
                completion,
                prompt_usd + completion * output,
                self.tag,
                unsent,
                unsent * output,
            )
        )


@dataclass
class Books:
    """All booked use, and the gaps of the bill."""

    entries: dict[tuple[date, str, str], Entry] = field(default_factory=dict)
    """By day, model and tag, so that they do not grow with the requests."""
    gaps: list[dict[str, str]] = field(default_factory=list)

    def open(
        self, model: str, asked: str, tier: str | None, tag: str, prompt: int, cached: int, completion: int
    ) -> Booking:
        """Returns the booking of a request that is about to be answered.

        Args:
            model: the model that answers.
            asked: the requested name, which may be a router with its own price.
            tier: the `service_tier` of the request.
            tag: the project in its annotations.
            prompt, cached, completion: the tokens of the whole response.
        """
        return Booking(self, model, get_token_prices(model, asked, tier), tag, prompt, cached, completion)

    def add(self, entry: Entry) -> None:
        """Adds use to the earlier use of the same model with the same tag on the same day."""
        key = entry.day, entry.model, entry.tag
        known = self.entries.get(key)
        self.entries[key] = entry if known is None else _add(known, entry)

    def change(self, body: bytes) -> dict[str, Any]:
        """Applies the changes in a JSON object, and returns the books.

        `clear`: true empties them. `add`: a list of entries with day, model, prompt_tokens, completion_tokens, and
        optionally cached_tokens and tag. `gaps`: a list of gaps, which replaces the earlier one.

        Raises:
            ValueError, KeyError, TypeError: it is malformed.
        """
        wanted = json.loads(body)
        if wanted.get("clear"):
            self.entries, self.gaps = {}, []
        for each in [_read_entry(each) for each in wanted.get("add", [])]:
            self.add(each)
        self.gaps = wanted.get("gaps", self.gaps)
        return self.describe()

    def describe(self) -> dict[str, Any]:
        """Returns the books, without the gaps, and the gaps, as JSON values."""
        shown = [vars(self.entries[key]) for key in sorted(self.entries)]
        texts = [{**each, "day": str(each["day"]), "usd": format(each["usd"], "f")} for each in shown]
        return {
            "entries": [{**each, "unsent_usd": format(each["unsent_usd"], "f")} for each in texts],
            "gaps": self.gaps,
        }

    def bill(self, first: date, end: date) -> list[Billed]:
        """Returns the bill of the days from `first` to before `end`, by day, model and tag, with its gaps."""
        bills_unsent = any(gap["gap"] == "aborted" for gap in self.gaps)
        chosen = [self.entries[key] for key in sorted(self.entries) if first <= key[0] < end]
        return [billed for entry in chosen for billed in self._distort(_make_billed(entry, bills_unsent))]

    def _distort(self, billed: Billed) -> Iterator[Billed]:
        times, factor = 1, Decimal(1)
        for gap in self.gaps:
            if gap.get("day") == str(billed.day) and gap["gap"] == "missing_day":
                return
            if gap.get("model") == billed.model:
                if gap["gap"] == "missing_model":
                    return
                times *= 2 if gap["gap"] == "double" else 1
                factor *= Decimal(gap["factor"]) if gap["gap"] == "price" else 1
        yield Billed(
            billed.day,
            billed.model,
            billed.tag,
            billed.prompt_tokens * times,
            billed.completion_tokens * times,
            billed.usd * times * factor,
        )


def _read_entry(raw: dict[str, Any]) -> Entry:
    prompt, completion, cached = raw["prompt_tokens"], raw["completion_tokens"], raw.get("cached_tokens", 0)
    uncached_price, cached_price, output_price = get_token_prices(raw["model"], raw["model"], None)
    usd = (prompt - cached) * uncached_price + cached * cached_price + completion * output_price
    return Entry(date.fromisoformat(raw["day"]), raw["model"], prompt, completion, usd, raw.get("tag", ""))


def _add(one: Entry, other: Entry) -> Entry:
    return Entry(
        one.day,
        one.model,
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.usd + other.usd,
        one.tag,
        one.unsent_tokens + other.unsent_tokens,
        one.unsent_usd + other.unsent_usd,
    )


def _make_billed(entry: Entry, with_unsent: bool) -> Billed:
    completion, usd = entry.completion_tokens, entry.usd
    if with_unsent:
        completion, usd = completion + entry.unsent_tokens, usd + entry.unsent_usd
    return Billed(entry.day, entry.model, entry.tag, entry.prompt_tokens, completion, usd)
