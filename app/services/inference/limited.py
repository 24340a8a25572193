"""A request under limits: what it has reserved, and what it is charged in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import msgspec
from msgspec import UNSET

from app.errors import GatewayError, UpstreamAuthenticationFailed, UpstreamError, UpstreamRefused, UpstreamSuspended
from app.limit_errors import LimitReached
from app.logs import log_event
from app.services.endpoints import Endpoint
from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.ceiling import bound_usage, make_ceiling, to_units
from app.services.journal import ActivityRecord
from app.services.limits import Ceiling, Charge, Policy, Reservation, format_amount
from app.services.providers import Provider

# After these statuses of a provider, it may have generated, and so billed, an answer that did not arrive.
BILLED_STATUSES = frozenset({408, 504, 524})


_NO_CEILING = Ceiling(cost=None, tokens=None, rate_tokens=None, fits=lambda cost, tokens: None)
# Of a request that was sent to no provider.
_NOTHING = Charge(cost=0, tokens=0, requests=0, rate_tokens=0)


class LimitedRequest(msgspec.Struct, eq=False):
    """The limits of one request, from before its body is read until its record is written.

    Attributes:
        policy: the limits of the key.
        reservation: what the request holds of them.
        is_unbilled: whether the last attempt failed in a way that costs nothing, or the next one has not begun. Whoever
            begins one sets it to False.
        received_bytes: how much of a stream has arrived; None before its end, and for other responses.
        endpoint, request: what was called and what is sent; None until that is known, and if nothing needs it.
        ceiling: the most that an attempt can use.
        ceilings: those of the requests for several targets, by their identity; empty with one target.
        charge: what the request has used in the end.
        headers: those of the response about the limits; other responses have the same object.
        earlier_cost, earlier_tokens: what the attempts before the current one are charged.
    """

    policy: Policy
    reservation: Reservation
    is_unbilled: bool = False
    received_bytes: int | None = None
    endpoint: Endpoint | None = None
    request: UpstreamRequest | None = None
    ceiling: Ceiling | None = None
    ceilings: dict[int, Ceiling] = {}
    charge: Charge = _NOTHING
    earlier_cost: int = 0
    earlier_tokens: int = 0
    headers: Mapping[str, str] | None = None

    def reserve(self, endpoint: Endpoint, request: UpstreamRequest, record: ActivityRecord) -> None:
        """Reserves the ceiling of a request that is ready to be sent, and writes it to the record as the charge.

        That is what the request is charged if the worker is killed before it ends.

        Raises:
            GatewayError: a limit has no room, or the ceiling is not known.
        """
        reservation = self.reservation
        if not reservation.binding.metered:
            return
        self.endpoint, self.request = endpoint, request
        self.ceiling = ceiling = make_ceiling(self.policy, endpoint, request)
        try:
            reservation.reserve((ceiling,))
        except LimitReached as error:
            _use_field_of(endpoint, error)
            raise
        if reservation.period_ids:
            self._write_ceiling(record)

    def reserve_dearest(
        self, endpoint: Endpoint, requests: Sequence[UpstreamRequest], record: ActivityRecord
    ) -> tuple[list[UpstreamRequest], list[tuple[UpstreamRequest, GatewayError]]]:
        """Reserves the ceiling of the dearest of several requests, of which only one shall be served.

        Args:
            endpoint: the endpoint that was called.
            requests: one for each target, at least one, in the order in which they may be sent.
            record: the record.

        Returns:
            The requests that may be sent, and the others, each with the error that says why: those without a known
            ceiling and, if the limits have no room for them, those that are dearer than the first.

        Raises:
            GatewayError: a limit has no room for the first request, or none has a known ceiling.
        """
        usable: list[UpstreamRequest] = []
        others: list[tuple[UpstreamRequest, GatewayError]] = []
        for request in requests:
            try:
                self.ceilings[id(request)] = make_ceiling(self.policy, endpoint, request)
                usable.append(request)
            except GatewayError as error:
                others.append((request, error))
        if not usable:
            raise others[0][1]
        self.endpoint = endpoint
        self._use(usable[0])
        try:
            self._reserve(endpoint, [self.ceilings[id(request)] for request in usable])
        except LimitReached as error:
            first = self.ceilings[id(usable[0])]
            dearer = [request for request in usable if not _is_at_most(self.ceilings[id(request)], first)]
            if not dearer:
                raise
            self._reserve(endpoint, [first])
            usable = [each for each in usable if _is_at_most(self.ceilings[id(each)], first)]
            others += [(request, error.with_traceback(None)) for request in dearer]
        self._write_ceiling(record)
        return usable, others

    def _reserve(self, endpoint: Endpoint, ceilings: Sequence[Ceiling]) -> None:
        try:
            self.reservation.reserve(ceilings)
        except LimitReached as error:
            _use_field_of(endpoint, error)
            raise

    def _use(self, request: UpstreamRequest) -> None:
        self.request, self.ceiling = request, self.ceilings.get(id(request))

    def _write_ceiling(self, record: ActivityRecord) -> None:
        """Writes what the request is charged if it does not end: the current attempt at most, and those before.

        PostgreSQL reads amounts with an exponent too, which take a third of the time to write.
        """
        if (periods := self.reservation.period_ids) and self.ceiling is not None:
            cost, tokens = self.ceiling.cost, self.ceiling.tokens
            record.budget_periods = periods
            record.charged_usd = UNSET if cost is None else f"{self.earlier_cost + cost}e-12"
            record.charged_tokens = UNSET if tokens is None else self.earlier_tokens + tokens

    def fail_attempt(self, error: Exception) -> None:
        """Notes that an attempt got no response, or one with an error; it may be billed all the same."""
        self.is_unbilled = not may_be_billed(error)

    def repeat(self, record: ActivityRecord, request: UpstreamRequest | None = None) -> bool:
        """Prepares another attempt: if the failed one may be billed, both ceilings are held and are the charge.

        Args:
            record: the record, with the usage of the failed attempt if that is known.
            request: the request for another target; None for the same one.

        Returns:
            Whether the record has changed, so that its start must be written again.

        Raises:
            GatewayError: a limit has no room for a second ceiling.
        """
        is_billed, failed = not self.is_unbilled, self.ceiling
        if is_billed and failed is not None:
            self.reservation.add_attempt(failed)
            cost, tokens = self._get_used(record, failed)
            self.earlier_cost += cost if cost is not None else failed.cost or 0
            self.earlier_tokens += tokens if tokens is not None else failed.tokens or 0
        if request is not None:
            self._use(request)
        self._write_ceiling(record)
        self.is_unbilled, self.received_bytes = True, None
        return is_billed and bool(self.reservation.period_ids)

    def write_charge(
        self, record: ActivityRecord, note_fault: Callable[[str, Exception], None], *, is_sent: bool
    ) -> None:
        """Writes to the record what the request is charged, right before the record is written for the last time.

        Args:
            record: the record.
            note_fault: is called with "charge" and the error if that fails by a mistake in the gateway; then the charge
                is what is reserved, which the record has since its start.
            is_sent: whether a provider may have received the request.
        """
        if is_sent:
            ceiling = self.ceiling or _NO_CEILING
            try:
                self.charge = self._make_charge(record, ceiling)
            except Exception as error:
                most_cost, most_tokens = ceiling.cost or 0, ceiling.tokens or 0
                self.charge = Charge(self.earlier_cost + most_cost, self.earlier_tokens + most_tokens, 1, None)
                self._write_ceiling(record)
                note_fault("charge", error)
                return
        if not record.budget_periods:
            return
        if not is_sent:
            record.budget_periods = UNSET
        charge, cost, tokens = self.charge, self.reservation.ceiling_cost, self.reservation.ceiling_tokens
        record.charged_usd, record.charged_tokens = f"{charge.cost}e-12", charge.tokens
        if (cost is not None and charge.cost > cost) or (tokens is not None and charge.tokens > tokens):
            self._report_excess(record)

    def _report_excess(self, record: ActivityRecord) -> None:
        """Logs a charge above the ceiling, which is then charged in full."""
        log_event(
            "ceiling_exceeded",
            level="warning",
            request_id=record.request_id,
            gateway=record.gateway,
            model=record.model_served,
            charged_usd=format_amount(self.charge.cost, "usd"),
            charged_tokens=self.charge.tokens,
            ceiling_usd=self.reservation.ceiling_usd,
            ceiling_tokens=self.reservation.ceiling_tokens,
        )

    def _make_charge(self, record: ActivityRecord, ceiling: Ceiling) -> Charge:
        """Returns what the last attempt used, and what those before are charged."""
        usd, prompt, output = record.cost_usd, record.prompt_tokens, record.completion_tokens
        if record.usage_source == "provider" and usd is not None and prompt is not None and output is not None:
            tokens = prompt + output  # So it is with almost all requests.
            return Charge(self.earlier_cost + to_units(usd), self.earlier_tokens + tokens, 1, tokens)
        return self._estimate_charge(record, ceiling)

    def _estimate_charge(self, record: ActivityRecord, ceiling: Ceiling) -> Charge:
        """Does the same where something is not known."""
        cost, tokens = self._get_used(record, ceiling)
        rate_tokens = tokens
        if tokens is None:
            rate_tokens, tokens = (0 if self.is_unbilled else None), (0 if self.is_unbilled else ceiling.tokens or 0)
        if cost is None:
            cost = 0 if self.is_unbilled else ceiling.cost or 0
        return Charge(
            cost=self.earlier_cost + cost,
            tokens=self.earlier_tokens + tokens,
            requests=1,
            rate_tokens=rate_tokens,
        )

    def _get_used(self, record: ActivityRecord, ceiling: Ceiling) -> tuple[int | None, int | None]:
        """Returns the cost and the tokens of the last attempt: the provider's, or at most; None for the ceiling."""
        cost = None if record.cost_usd is None else to_units(record.cost_usd)
        tokens = None
        if record.prompt_tokens is not None and record.completion_tokens is not None:
            tokens = record.prompt_tokens + record.completion_tokens
        if record.usage_source != "counted" or self.endpoint is None or self.request is None:
            return cost, tokens
        most_cost, most_tokens = bound_usage(self.endpoint, self.request, self.received_bytes)
        return max(cost or 0, most_cost), max(tokens or 0, most_tokens)

    def make_headers(self, headers: dict[str, str], provider: Provider) -> None:
        """Makes the headers about the limits, and gives those about the provider's own limits another name.

        Args:
            headers: those of the response so far; changed in place.
            provider: who sent them.
        """
        self.headers = self.reservation.get_headers()
        theirs = _find_rate_headers(provider.shown_headers)
        if not theirs.isdisjoint(headers) and self.reservation.binding.rates:
            for name in [name for name in headers if name in theirs]:
                headers[f"x-upstream-{name.removeprefix('x-')}"] = headers.pop(name)


@lru_cache(maxsize=64)
def _find_rate_headers(names: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name in names if name.startswith("x-ratelimit-"))


def _is_at_most(ceiling: Ceiling, other: Ceiling) -> bool:
    """Returns whether whatever has room for `other` has room for `ceiling`."""
    pairs = (ceiling.cost, other.cost), (ceiling.tokens, other.tokens), (ceiling.rate_tokens, other.rate_tokens)
    return all(own is None or (most is not None and own <= most) for own, most in pairs)


def _use_field_of(endpoint: Endpoint, error: LimitReached) -> None:
    """Names the field of the caller's API in an error that says how many output tokens would fit."""
    field = endpoint.output_field
    if error.param == "max_tokens" and field not in (None, "max_tokens"):
        error.message, error.param = error.message.replace("max_tokens", str(field)), field


def may_be_billed(error: Exception) -> bool:
    """Returns whether a request that ended with this error, and without known usage, may have to be paid for.

    It need not if no connection was made, if the provider's status is that of an error, or if an error in place of the
    answer has a name that says that it was refused. After all else it may have been generated, for instance if the
    client left before the answer. So it may if a kept connection broke, after which the request is sent again: usually
    the provider had closed it before, but it may also have read the request first, and nothing tells these apart.
    """
    if not isinstance(error, UpstreamError):
        return True
    if error.upstream_status is not None:
        return error.upstream_status in BILLED_STATUSES
    if isinstance(error, UpstreamRefused | UpstreamAuthenticationFailed | UpstreamSuspended):
        return False
    if error.code == "upstream_connection_lost":
        return True
    return not error.is_retryable and error.code != "upstream_tls_error"
