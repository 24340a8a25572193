"""The most that a request can cost, which its budgets reserve before it is sent."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from math import ceil

import msgspec

from app.errors import BadRequest, PermissionDenied
from app.services.endpoints import Endpoint, TokenBounds
from app.services.inference.adaptation import UpstreamRequest
from app.services.limits import Ceiling, Policy
from app.services.pricing import Price, get_price
from app.services.routing import Target

# Costs are whole numbers of 10^-12 USD, as all list prices are; prices are kept with as many digits more, so that
# neither is rounded before the product.
_DIGITS = 12
_FINER: int = 10**_DIGITS

# Of English text; an estimate for rates, which are settled with what was used.
_BYTES_PER_TOKEN = 4

# Prices come from lists, which are replaced now and then.
_MAX_REMEMBERED = 4_096


class _Rates(msgspec.Struct, frozen=True):
    """What a token costs at most, in 10^-24 USD, rounded up.

    Attributes:
        price: what this was made from.
        prompt: of the prompt's tokens, the dearest of those in the provider's cache and others.
        output: 0 if the provider states no such price.
    """

    price: Price
    prompt: int
    output: int


# id of a price → its rates. The same object is looked up until a list changes.
_remembered: dict[int, _Rates] = {}


def _find_rates(price: Price) -> _Rates:
    rates = _remembered.get(id(price))
    if rates is None or rates.price is not price:
        if len(_remembered) >= _MAX_REMEMBERED:
            _remembered.clear()
        prompt, output = max(price.prompt, price.input_cache_read or price.prompt), price.completion or Decimal(0)
        rates = _Rates(price, ceil(prompt.scaleb(2 * _DIGITS)), ceil(output.scaleb(2 * _DIGITS)))
        _remembered[id(price)] = rates
    return rates


def _reckon(price: Price | None, bounds: TokenBounds) -> int | None:
    """Returns the most that a request costs, in 10^-12 USD; None if the price or a bound is not known."""
    if price is None or (bounds.outputs and price.completion is None):
        return None
    rates = _find_rates(price)
    if not rates.prompt and not rates.output:
        return 0
    if bounds.prompt is None or bounds.output is None:
        return None
    return -(-(bounds.prompt * rates.prompt + bounds.output * rates.output) // _FINER)  # Rounded up.


def make_ceiling(policy: Policy, endpoint: Endpoint, request: UpstreamRequest) -> Ceiling:
    """Returns the ceiling of a request as it was adapted to its target, and keeps the price for the charge.

    Args:
        policy: the limits of the key.
        endpoint: the endpoint that was called.
        request: the request; its `price` is set.

    Raises:
        BadRequest: a budget needs a bound that neither the request nor the model has.
        PermissionDenied: a budget is in USD, and the price of the model is not known.
    """
    target = request.target
    request.price = price = get_price(target.provider.billing, target.model, request.service_tier)
    bounds = endpoint.bound_tokens(request.body, len(request.content), target.context_length)
    prompt, output = bounds.prompt, bounds.output
    cost, tokens = _reckon(price, bounds), None if prompt is None or output is None else prompt + output
    if cost is None or tokens is None:
        _raise_if_needed(policy, endpoint, target, price, bounds)
    rate_tokens = None
    if bounds.is_said:
        # The estimate of the record counts no tools, schemas and pictures.
        sent = len(request.content) // _BYTES_PER_TOKEN
        sent = sent if prompt is None or sent < prompt else prompt
        rate_tokens = max(request.prompt_tokens_estimate, sent) + (output or 0)
    return Ceiling(cost, tokens, rate_tokens, partial(_fit, price, bounds))


def _raise_if_needed(
    policy: Policy, endpoint: Endpoint, target: Target, price: Price | None, bounds: TokenBounds
) -> None:
    """Raises an error if a budget needs what is not known: the cost, the tokens, or both."""
    units = {budget.unit for subject in policy.subjects for budget in subject.budgets}
    if "usd" in units and (price is None or (bounds.outputs and price.completion is None)):
        raise _make_unpriced(target)
    is_unbounded = bounds.prompt is None or bounds.output is None
    if ("usd" in units and _reckon(price, bounds) is None) or ("tokens" in units and is_unbounded):
        raise _make_unbounded(endpoint, target, "output" if bounds.output is None else "prompt")


def bound_usage(endpoint: Endpoint, request: UpstreamRequest, received_bytes: int | None) -> tuple[int, int]:
    """Returns the most that a request can have cost and used whose provider did not say how much it was.

    An estimate would not do: it misses what the provider adds to the prompt, and events may have many tokens each.
    Whoever breaks off streams could then use much more than a budget has.

    Args:
        endpoint: the endpoint that was called.
        request: the request, after `make_ceiling`.
        received_bytes: how much of the stream has arrived; None if it was no stream.

    Returns:
        10^-12 USD and tokens; 0 for what has no bound, which no budget needs then.
    """
    bounds = endpoint.bound_tokens(request.body, len(request.content), request.target.context_length)
    if received_bytes is not None and (bounds.output is None or received_bytes < bounds.output):
        bounds = msgspec.structs.replace(bounds, output=received_bytes)
    tokens = 0 if bounds.prompt is None or bounds.output is None else bounds.prompt + bounds.output
    return _reckon(request.price, bounds) or 0, tokens


def to_units(usd: str) -> int:
    """Returns a decimal amount of USD in 10^-12 USD, rounded up."""
    return ceil(Decimal(usd).scaleb(_DIGITS))


def _fit(price: Price | None, bounds: TokenBounds, cost_room: int, token_room: int) -> int | None:
    """Returns the output tokens with which the request would fit into what is left; None if with none."""
    outputs, prompt = bounds.outputs, bounds.prompt or 0
    if not outputs:
        return None
    left = token_room - prompt
    if price is not None and price.completion:
        rates = _find_rates(price)
        left = min(left, (cost_room * _FINER - prompt * rates.prompt) // rates.output)
    return left // outputs if left >= outputs else None


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
