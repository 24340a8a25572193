"""A request under limits: what it has reserved, and what it is charged in the end."""

from __future__ import annotations

from msgspec import UNSET

from app.errors import UpstreamAuthenticationFailed, UpstreamError, UpstreamRefused, UpstreamSuspended
from app.limit_errors import LimitReached
from app.logs import log_event
from app.services.endpoints import Endpoint
from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.ceiling import make_ceiling, to_units
from app.services.journal import ActivityRecord
from app.services.limits import Ceiling, Charge, Policy, Reservation, format_amount

# After these statuses of a provider, it may have generated, and so billed, an answer that did not arrive.
_BILLED_STATUSES = frozenset({408, 504, 524})


_NO_CEILING = Ceiling(cost=None, tokens=None, rate_tokens=None, fits=lambda cost, tokens: None)
# Of a request that was sent to no provider.
_NOTHING = Charge(cost=0, tokens=0, requests=0, rate_tokens=0)


class LimitedRequest:
    """The limits of one request, from before its body is read until its record is written.

    Args:
        policy: the limits of the key.
        reservation: what the request holds of them.

    Attributes:
        policy, reservation: as above.
        is_unbilled: whether the last attempt failed in a way that costs nothing, or the next one has not begun. Whoever
            begins one sets it to False.
    """

    __slots__ = ("_billed_failures", "_ceiling", "_charge", "is_unbilled", "policy", "reservation")

    def __init__(self, policy: Policy, reservation: Reservation) -> None:
        self.policy = policy
        self.is_unbilled = False
        self.reservation = reservation
        self._ceiling: Ceiling | None = None
        self._charge = _NOTHING
        self._billed_failures = 0

    def reserve(self, endpoint: Endpoint, request: UpstreamRequest, record: ActivityRecord) -> None:
        """Reserves the ceiling of a request that is ready to be sent, and writes it to the record as the charge.

        That is what the request is charged if the worker is killed before it ends.

        Raises:
            GatewayError: a limit has no room, or the ceiling is not known.
        """
        for subject in self.policy.subjects:
            if subject.budgets or subject.tokens_per_minute is not None:
                break
        else:
            return
        self._ceiling = make_ceiling(self.policy, endpoint, request)
        try:
            self.reservation.reserve([self._ceiling])
        except LimitReached as error:
            _use_field_of(endpoint, error)
            raise
        self._write_ceilings(record, 1)

    def _write_ceilings(self, record: ActivityRecord, count: int) -> None:
        if (periods := self.reservation.period_ids) and self._ceiling is not None:
            cost, tokens = self._ceiling.cost, self._ceiling.tokens
            record.budget_periods = periods
            record.charged_usd = UNSET if cost is None else format_amount(count * cost, "usd")
            record.charged_tokens = UNSET if tokens is None else count * tokens

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
        if is_billed and self._ceiling is not None:
            self.reservation.add_attempt(self._ceiling)
            self._billed_failures += 1
            self._write_ceilings(record, 1 + self._billed_failures)
        self.is_unbilled = True
        return is_billed and bool(self.reservation.period_ids)

    def write_charge(self, record: ActivityRecord, *, is_sent: bool) -> None:
        """Writes to the record what the request is charged, right before the record is written for the last time."""
        if is_sent:
            self._charge = self._make_charge(record, self._ceiling or _NO_CEILING)
        if not record.budget_periods:
            return
        if not is_sent:
            record.budget_periods = UNSET
        record.charged_usd = format_amount(self._charge.cost, "usd")
        record.charged_tokens = self._charge.tokens
        charge, cost, tokens = self._charge, self.reservation.ceiling_cost, self.reservation.ceiling_tokens
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
            charged_usd=record.charged_usd,
            charged_tokens=self._charge.tokens,
            ceiling_usd=self.reservation.ceiling_usd,
            ceiling_tokens=self.reservation.ceiling_tokens,
        )

    def _make_charge(self, record: ActivityRecord, ceiling: Ceiling) -> Charge:
        """Returns what is known of the last attempt, else its ceiling, and the ceilings of those before."""
        last = 0 if self.is_unbilled else 1
        ceilings, cost, tokens = self._billed_failures, ceiling.cost or 0, ceiling.tokens or 0
        used = None
        if record.prompt_tokens is not None and record.completion_tokens is not None:
            used = record.prompt_tokens + record.completion_tokens
        return Charge(
            cost=ceilings * cost + (last * cost if record.cost_usd is None else to_units(record.cost_usd)),
            tokens=ceilings * tokens + (last * tokens if used is None else used),
            requests=1,
            rate_tokens=0 if used is None and self.is_unbilled else used,
        )

    def settle(self) -> None:
        """Turns what is reserved into what is charged, after the record was written; later calls do nothing."""
        self.reservation.settle(self._charge)

    def add_headers(self, headers: dict[str, str]) -> None:
        """Adds the headers about the limits. The provider's own limits make room for them under another name."""
        own = self.reservation.get_headers()
        if not own:
            return
        if "x-ratelimit-limit-requests" in own or "x-ratelimit-limit-tokens" in own:
            for name in [name for name in headers if name.startswith("x-ratelimit-")]:
                headers[f"x-upstream-{name.removeprefix('x-')}"] = headers.pop(name)
        headers.update(own)


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
