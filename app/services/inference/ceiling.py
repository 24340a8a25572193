"""The most that a request can cost, which its budgets reserve before it is sent."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from math import ceil

import msgspec

from app.errors import BadRequest, PermissionDenied
from app.services.endpoints import Endpoint, TokenBounds
from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.routing import Target
from app.services.limits import Ceiling, Policy
from app.services.pricing import Price, get_price

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
        output: None if the provider states no such price.
    """

    price: Price
    prompt: int
    output: int | None


# id of a price → its rates. The same object is looked up until a list changes.
_remembered: dict[int, _Rates] = {}


def _make_rates(price: Price) -> _Rates:
    prompt = max(price.prompt, price.input_cache_read or price.prompt)
    output = None if price.completion is None else ceil(price.completion.scaleb(2 * _DIGITS))
    if len(_remembered) >= _MAX_REMEMBERED:
        _remembered.clear()
    rates = _remembered[id(price)] = _Rates(price, ceil(prompt.scaleb(2 * _DIGITS)), output)
    return rates


class _Most(msgspec.Struct, frozen=True):
    """The most that a request can use; None for what has no bound.

    Attributes:
        bounds: what its body says.
        output: output tokens, of all outputs.
        tokens: with those of the prompt.
        cost: in 10^-12 USD.
        rates: None if the price is not known.
    """

    bounds: TokenBounds
    output: int | None
    tokens: int | None
    cost: int | None
    rates: _Rates | None


def _reckon(endpoint: Endpoint, request: UpstreamRequest, received_bytes: int | None = None) -> _Most:
    """Returns the most that a request can use.

    Args:
        endpoint: the endpoint that was called.
        request: the request; its `price` is set, if it is known.
        received_bytes: how much of a stream has arrived, which has at most as many tokens; None if that is not known.
    """
    context_length, price = request.target.context_length, request.price
    bounds = endpoint.bound_tokens(request.body, len(request.content), context_length)
    prompt, outputs, output = bounds.prompt, bounds.outputs, bounds.output
    if output is None or (context_length is not None and output > context_length):
        output = context_length
    output = 0 if not outputs else None if output is None else outputs * output
    if received_bytes is not None:
        output = received_bytes if output is None else min(output, received_bytes)
    tokens = None if prompt is None or output is None else prompt + output
    rates = None
    if price is not None:
        rates = _remembered.get(id(price))
        if rates is None or rates.price is not price:
            rates = _make_rates(price)
    return _Most(bounds, output, tokens, _reckon_cost(rates, outputs, prompt, output), rates)


def _reckon_cost(rates: _Rates | None, outputs: int, prompt: int | None, output: int | None) -> int | None:
    if rates is None or (outputs and rates.output is None):
        return None
    if not rates.prompt and not rates.output:
        return 0
    if prompt is None or output is None:
        return None
    cost = prompt * rates.prompt + output * (rates.output or 0)
    return -(-cost // _FINER)  # Rounded up.


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
    request.price = get_price(target.provider.billing, target.model, request.service_tier)
    most = _reckon(endpoint, request)
    bounds, output, cost = most.bounds, most.output, most.cost
    if cost is None or most.tokens is None:
        _raise_if_needed(policy, endpoint, target, most)
    rate_tokens = None
    if bounds.output is not None or not bounds.outputs:
        rate_tokens = _estimate_prompt(request, bounds.prompt) + (output or 0)
    return Ceiling(cost, most.tokens, rate_tokens, partial(_fit, most))


def _raise_if_needed(policy: Policy, endpoint: Endpoint, target: Target, most: _Most) -> None:
    """Raises an error if a budget needs what is not known."""
    units = {budget.unit for subject in policy.subjects for budget in subject.budgets}
    is_priced = most.rates is not None and not (most.bounds.outputs and most.rates.output is None)
    if "usd" in units and not is_priced:
        raise _make_unpriced(target)
    if (most.cost is None and "usd" in units) or (most.tokens is None and "tokens" in units):
        raise _make_unbounded(endpoint, target, "output" if most.output is None else "prompt")


def _estimate_prompt(request: UpstreamRequest, bound: int | None) -> int:
    """Returns an estimate that counts tools, schemas and pictures too, unlike that for the record."""
    sent, estimate = len(request.content) // _BYTES_PER_TOKEN, request.prompt_tokens_estimate
    if bound is not None and sent > bound:
        sent = bound
    return sent if sent > estimate else estimate


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
    most = _reckon(endpoint, request, received_bytes)
    return most.cost or 0, most.tokens or 0


def to_units(usd: str) -> int:
    """Returns a decimal amount of USD in 10^-12 USD, rounded up."""
    return ceil(Decimal(usd).scaleb(_DIGITS))


def _fit(most: _Most, cost_room: int, token_room: int) -> int | None:
    """Returns the output tokens with which the request would fit into what is left; None if with none."""
    outputs, prompt, rates = most.bounds.outputs, most.bounds.prompt or 0, most.rates
    if not outputs:
        return None
    left = token_room - prompt
    if rates is not None and rates.output:
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
