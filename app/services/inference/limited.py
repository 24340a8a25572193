"""A request under limits: what it has reserved, and what it is charged in the end."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from app.errors import UpstreamAuthenticationFailed, UpstreamError, UpstreamRefused, UpstreamSuspended
from app.limit_errors import LimitReached
from app.logs import log_event
from app.services.endpoints import Endpoint
from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.ceiling import bound_usage, make_ceiling, to_units
from app.services.journal import ActivityRecord
from app.services.limits import Ceiling, Charge, Policy, Reservation, format_amount

# After these statuses of a provider, it may have generated, and so billed, an answer that did not arrive.
_BILLED_STATUSES = frozenset({408, 504, 524})


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
        charge: what the request has used in the end.
        billed_failures: how many failed attempts may be billed.
    """

    policy: Policy
    reservation: Reservation
    is_unbilled: bool = False
    received_bytes: int | None = None
    endpoint: Endpoint | None = None
    request: UpstreamRequest | None = None
    ceiling: Ceiling = _NO_CEILING
    charge: Charge = _NOTHING
    billed_failures: int = 0

    def reserve(self, endpoint: Endpoint, request: UpstreamRequest, record: ActivityRecord) -> None:
        """Reserves the ceiling of a request that is ready to be sent, and writes it to the record as the charge.

        That is what the request is charged if the worker is killed before it ends.

        Raises:
            GatewayError: a limit has no room, or the ceiling is not known.
        """
        if not self.reservation.binding.metered:
            return
        self.endpoint, self.request = endpoint, request
        self.ceiling = make_ceiling(self.policy, endpoint, request)
        try:
            self.reservation.reserve([self.ceiling])
        except LimitReached as error:
            _use_field_of(endpoint, error)
            raise
        if self.reservation.period_ids:
            self._write_ceilings(record)

    def _write_ceilings(self, record: ActivityRecord) -> None:
        """Writes the ceilings of all attempts to the record as the charge.

        PostgreSQL reads amounts with an exponent too, which take a third of the time to write.
        """
        cost, tokens = self.reservation.ceiling_cost, self.reservation.ceiling_tokens
        record.budget_periods = self.reservation.period_ids
        record.charged_usd = UNSET if cost is None else f"{cost}e-12"
        record.charged_tokens = UNSET if tokens is None else tokens

    def fail_attempt(self, error: Exception) -> None:
        """Notes that an attempt got no response, or one with an error; it may be billed all the same."""
        self.is_unbilled = not may_be_billed(error)

    def repeat(self, record: ActivityRecord) -> bool:
        """Prepares another attempt: if the failed one may be billed, both ceilings are held and are the charge.

        Returns:
            Whether the record has changed, so that its start must be written again.

        Raises:
            GatewayError: a limit has no room for a second ceiling.
        """
        is_billed = not self.is_unbilled
        if is_billed and self.request is not None:
            self.reservation.add_attempt(self.ceiling)
            self.billed_failures += 1
            if self.reservation.period_ids:
                self._write_ceilings(record)
        self.is_unbilled = True
        return is_billed and bool(self.reservation.period_ids)

    def write_charge(self, record: ActivityRecord, *, is_sent: bool) -> None:
        """Writes to the record what the request is charged, right before the record is written for the last time."""
        if is_sent:
            self.charge = self._make_charge(record)
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

    def _make_charge(self, record: ActivityRecord) -> Charge:
        """Returns what the last attempt used, and the ceilings of those before."""
        cost = None if record.cost_usd is None else to_units(record.cost_usd)
        prompt_tokens, completion_tokens = record.prompt_tokens, record.completion_tokens
        tokens = None if prompt_tokens is None or completion_tokens is None else prompt_tokens + completion_tokens
        if record.usage_source == "counted" and self.endpoint is not None and self.request is not None:
            # At most, because the provider's own count is not known.
            most_cost, most_tokens = bound_usage(self.endpoint, self.request, self.received_bytes)
            cost, tokens = max(cost or 0, most_cost), max(tokens or 0, most_tokens)
        if cost is None or tokens is None or self.billed_failures:
            return self._add_ceilings(cost, tokens)
        return Charge(cost, tokens, 1, tokens)

    def _add_ceilings(self, cost: int | None, tokens: int | None) -> Charge:
        """Returns the charge with the ceiling for what is None, and for each earlier attempt."""
        most_cost, most_tokens = self.ceiling.cost or 0, self.ceiling.tokens or 0
        rate_tokens = tokens
        if tokens is None:
            rate_tokens, tokens = (0, 0) if self.is_unbilled else (None, most_tokens)
        if cost is None:
            cost = 0 if self.is_unbilled else most_cost
        failures = self.billed_failures
        return Charge(failures * most_cost + cost, failures * most_tokens + tokens, 1, rate_tokens)

    def settle(self) -> None:
        """Turns what is reserved into what is charged, after the record was written; later calls do nothing."""
        self.reservation.settle(self.charge)

    def add_headers(self, headers: dict[str, str]) -> None:
        """Adds the headers about the limits. The provider's own limits make room for them under another name."""
        own = self.reservation.get_headers()
        if not own:
            return
        if "x-ratelimit-" in "\n".join(headers) and self.reservation.binding.rates:
            for name in [name for name in headers if name.startswith("x-ratelimit-")]:
                headers[f"x-upstream-{name.removeprefix('x-')}"] = headers.pop(name)
        headers |= own


def _use_field_of(endpoint: Endpoint, error: LimitReached) -> None:
    """Names the field of the caller's API in an error that says how many output tokens would fit."""
    field = endpoint.output_field
    if error.param == "max_tokens" and field not in (None, "max_tokens"):
        error.message, error.param = error.message.replace("max_tokens", str(field)), field


def may_be_billed(error: Exception) -> bool:
    """Returns whether a request that ended with this error, and without known usage, may have to be paid for.

    It need not if no connection was made, if the provider's status is that of an error, or if an error in place of the
    answer has a name that says that it was refused. After all else it may have been generated, for instance if the
    client left before the answer.
    """
    if not isinstance(error, UpstreamError):
        return True
    if error.upstream_status is not None:
        return error.upstream_status in _BILLED_STATUSES
    if isinstance(error, UpstreamRefused | UpstreamAuthenticationFailed | UpstreamSuspended):
        return False
    return not error.is_retryable and error.code != "upstream_tls_error"
