"""The highest possible cost of a request, which its budgets reserve before it is sent."""

from __future__ import annotations

import time
from decimal import Decimal
from functools import partial
from math import ceil

import msgspec

from app.errors import BadRequest, PermissionDenied
from app.limit_errors import LimitReached
from app.services.endpoints import Endpoint
from app.services.inference.adaptation import UpstreamRequest
from app.services.limits import Ceiling, Policy
from app.services.pricing import Price, get_price
from app.services.routing import Target

# Costs are whole numbers of 10^-12 USD, as all list prices are. A price with more digits is kept with twice as many, so
# that nothing is rounded before the product.
_DIGITS = 12
_FINER: int = 10**_DIGITS
_SCALES: tuple[int, ...] = tuple(10 ** (_DIGITS - digits) for digits in range(_DIGITS + 1))

# For English text. Rates reserve by this estimate and are settled with the real use.
_BYTES_PER_TOKEN = 4

# Prices come from lists that are replaced now and then, so a price is looked up again after this many seconds.
_QUOTE_S = 1.0
_MAX_REMEMBERED = 4_096

# The highest cost of a request in 10^-12 USD, its highest number of tokens, and the tokens that its rates reserve; None
# for one that is not known, as in `Ceiling`.
Most = tuple[int | None, int | None, int | None]


class _Quote(msgspec.Struct, frozen=True):
    """The price of a target, looked up for all requests of the next moment.

    Attributes:
        target, service_tier: the target and tier that the price is for.
        until_s: until when it holds, on the monotonic clock.
        price: the price; None if it is not known.
        is_complete: whether it includes a price for output, so that a bound on the tokens gives the cost.
        prompt, output, divisor: see `_make_rates`; 0, 0 and 1 without a price.
    """

    target: Target
    service_tier: str | None
    until_s: float
    price: Price | None
    is_complete: bool
    prompt: int
    output: int
    divisor: int


# Target id → quote. All requests of a route share its target until a list changes. It is not in the Runtime, because to
# find it there takes several calls for each request. A quote holds for its target object only, and targets belong to
# the routes of one Runtime, so another Runtime, with other prices, never gets it.
_remembered: dict[int, _Quote] = {}


def _find_quote(request: UpstreamRequest, now_s: float) -> _Quote:
    if len(_remembered) >= _MAX_REMEMBERED:
        _remembered.clear()
    target, tier = request.target, request.service_tier
    price = get_price(target.provider.billing, target.model, tier)
    is_complete = price is not None and price.completion is not None
    rates = (0, 0, 1) if price is None else _make_rates(price)
    quote = _remembered[id(target)] = _Quote(target, tier, now_s + _QUOTE_S, price, is_complete, *rates)
    return quote


def _make_rates(price: Price) -> tuple[int, int, int]:
    """Returns the highest prices of a prompt token and of an output token, and the divisor that makes them 10^-12 USD.

    A prompt token has the higher of the cached and the uncached price; without a price for output, that price is 0.
    """
    dearest, output = max(price.prompt, price.input_cache_read or price.prompt), price.completion or Decimal(0)
    finest = ceil(dearest.scaleb(2 * _DIGITS)), ceil(output.scaleb(2 * _DIGITS))
    if any(rate % _FINER for rate in finest):
        return *finest, _FINER
    return finest[0] // _FINER, finest[1] // _FINER, 1


def _reckon(price: Price | None, outputs: int, prompt: int | None, output: int | None) -> int | None:
    """Returns the most that a request costs, in 10^-12 USD; None if the price or a bound is not known.

    Args:
        price: its price per token.
        outputs: the number of texts that it generates.
        prompt, output: the most tokens in its prompt, and in all its outputs.
    """
    if price is None or (outputs and price.completion is None):
        return None
    prompt_rate, output_rate, divisor = _make_rates(price)
    if not prompt_rate and not output_rate:
        return 0
    if prompt is None or output is None:
        return None
    return -(-(prompt * prompt_rate + output * output_rate) // divisor)  # Rounded up.


def find_most(policy: Policy, endpoint: Endpoint, request: UpstreamRequest, now_s: float) -> Most:
    """Returns the most that an adapted request can use at its target, and keeps the price for the charge.

    Args:
        policy: the limits of the key.
        endpoint: the endpoint that was called.
        request: the request; its `price` is set.
        now_s: the time, on the monotonic clock.

    Raises:
        BadRequest: a budget needs a bound that neither the request nor the model has.
        PermissionDenied: a budget is in USD, and the price of the model is not known.
    """
    target, sent = request.target, len(request.content)
    quote = _remembered.get(id(target))
    if (
        quote is None
        or quote.target is not target
        or now_s >= quote.until_s
        or quote.service_tier != request.service_tier
    ):
        quote = _find_quote(request, now_s)
    request.price = quote.price
    prompt, outputs, output, is_said = endpoint.bound_tokens(request.body, sent, target.context_length)
    cost: int | None
    tokens: int | None
    if quote.is_complete and prompt is not None and output is not None:  # Almost always.
        cost, tokens = prompt * quote.prompt + output * quote.output, prompt + output
        if quote.divisor != 1:
            cost = -(-cost // quote.divisor)  # Rounded up.
    else:
        cost = _reckon(quote.price, outputs, prompt, output)
        tokens = None if prompt is None or output is None else prompt + output
        _raise_if_needed(policy, endpoint, target, quote.price, outputs, cost, tokens, output)
    if not is_said:
        return cost, tokens, None
    # The record's estimate leaves out tools, schemas and pictures.
    sent //= _BYTES_PER_TOKEN
    if prompt is not None and sent > prompt:
        sent = prompt
    estimate = request.prompt_tokens_estimate
    return cost, tokens, (estimate if estimate > sent else sent) + (output or 0)


def _raise_if_needed(
    policy: Policy,
    endpoint: Endpoint,
    target: Target,
    price: Price | None,
    outputs: int,
    cost: int | None,
    tokens: int | None,
    output: int | None,
) -> None:
    """Refuses a request if a budget needs a cost or a number of tokens that is not known."""
    units = {budget.unit for subject in policy.subjects for budget in subject.budgets}
    if cost is None and "usd" in units and (price is None or (outputs and price.completion is None)):
        raise _make_unpriced(target)
    if (cost is None and "usd" in units) or (tokens is None and "tokens" in units):
        raise _make_unbounded(endpoint, target, "output" if output is None else "prompt")


def make_ceiling(policy: Policy, endpoint: Endpoint, request: UpstreamRequest) -> Ceiling:
    """Returns the ceiling of a request; see `find_most`."""
    cost, tokens, rate_tokens = find_most(policy, endpoint, request, time.monotonic())
    return Ceiling(cost, tokens, rate_tokens, partial(find_fitting, endpoint, request))


def bound_usage(endpoint: Endpoint, request: UpstreamRequest, received_bytes: int | None) -> tuple[int, int]:
    """Returns the highest cost and use of a request for which the provider reported no usage.

    An estimate would be too low: it misses what the provider adds to the prompt, and an event may have many tokens. A
    client that breaks off its streams could then use much more than its budget.

    Args:
        endpoint: the endpoint that was called.
        request: the request, after `make_ceiling`.
        received_bytes: how much of the stream has arrived; None if it was no stream.

    Returns:
        10^-12 USD and tokens; 0 where there is no bound, since then no budget needs one.
    """
    prompt, outputs, output, _ = endpoint.bound_tokens(
        request.body, len(request.content), request.target.context_length
    )
    if received_bytes is not None:
        output = received_bytes if output is None else min(output, received_bytes)
    tokens = 0 if prompt is None or output is None else prompt + output
    return _reckon(request.price, outputs, prompt, output) or 0, tokens


def to_units(usd: str) -> int:
    """Returns a decimal amount of USD in 10^-12 USD, rounded up."""
    digits = len(usd) - usd.find(".") - 1
    if digits <= _DIGITS and digits != len(usd):
        return int(usd.replace(".", "")) * _SCALES[digits]  # A third of the time that Decimal takes.
    return ceil(Decimal(usd).scaleb(_DIGITS))


def find_fitting(endpoint: Endpoint, request: UpstreamRequest, cost_room: int, token_room: int) -> int | None:
    """Returns the output tokens with which a request would fit into what is left; None if it would not fit with any.

    Args:
        endpoint: the endpoint that was called.
        request: the request, after `find_most`.
        cost_room, token_room: what is left, in 10^-12 USD and tokens.
    """
    prompt, outputs, _, _ = endpoint.bound_tokens(request.body, len(request.content), request.target.context_length)
    if not outputs:
        return None
    price, prompt = request.price, prompt or 0
    left = token_room - prompt
    if price is not None and price.completion:
        prompt_rate, output_rate, divisor = _make_rates(price)
        left = min(left, (cost_room * divisor - prompt * prompt_rate) // output_rate)
    return left // outputs if left >= outputs else None


def name_field(endpoint: Endpoint, error: LimitReached) -> None:
    """Replaces `max_tokens` by the name in the caller's API, in an error that says how many tokens would fit."""
    field = endpoint.output_field
    if error.param == "max_tokens" and field not in (None, "max_tokens"):
        error.message, error.param = error.message.replace("max_tokens", str(field)), field


def _make_unpriced(target: Target) -> PermissionDenied:
    return PermissionDenied(
        f"The price of {target.provider.name}/{target.model} is not known, at least not in this service tier, and this "
        "key has a budget in USD. Use another model, or ask the operator to set the price in PRICE_FILE.",
        param="model",
        code="model_not_priced",
        should_retry=False,
    )


def _make_unbounded(endpoint: Endpoint, target: Target, part: str) -> BadRequest:
    unknown = f"the context length of {target.provider.name}/{target.model} is not known"
    if part == "output":
        field = endpoint.output_field
        return BadRequest(
            f"This key has a budget, {unknown}, and the request does not say how many tokens to generate at most. Send "
            f"`{field}`.",
            param=field,
            code="max_tokens_required",
        )
    return BadRequest(
        f"This key has a budget, and {unknown}, so nothing bounds the tokens of a prompt with images, other media or a "
        "template. Send texts only, or use a model that GET /v1/models lists with its `context_length`.",
        param="model",
        code="prompt_not_bounded",
    )
