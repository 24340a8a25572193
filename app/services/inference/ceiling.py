"""The most that a request can cost, which its budgets reserve before it is sent."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from math import ceil

import msgspec

from app.errors import BadRequest, PermissionDenied
from app.services.endpoints import Endpoint
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


def _make_rates(price: Price) -> _Rates:
    if len(_remembered) >= _MAX_REMEMBERED:
        _remembered.clear()
    prompt, output = max(price.prompt, price.input_cache_read or price.prompt), price.completion or Decimal(0)
    rates = _Rates(price, ceil(prompt.scaleb(2 * _DIGITS)), ceil(output.scaleb(2 * _DIGITS)))
    _remembered[id(price)] = rates
    return rates


def _reckon(price: Price | None, outputs: int, prompt: int | None, output: int | None) -> int | None:
    """Returns the most that a request costs, in 10^-12 USD; None if the price or a bound is not known.

    Args:
        price: of its tokens.
        outputs: how many texts it generates.
        prompt, output: the most tokens of its prompt, and of all its outputs.
    """
    if price is None or (outputs and price.completion is None):
        return None
    rates = _remembered.get(id(price))
    if rates is None or rates.price is not price:
        rates = _make_rates(price)
    if not rates.prompt and not rates.output:
        return 0
    if prompt is None or output is None:
        return None
    return -(-(prompt * rates.prompt + output * rates.output) // _FINER)  # Rounded up.


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
    prompt, outputs, output = bounds.prompt, bounds.outputs, bounds.output
    cost = _reckon(price, outputs, prompt, output)
    tokens = None if prompt is None or output is None else prompt + output
    if cost is None or tokens is None:
        units = {budget.unit for subject in policy.subjects for budget in subject.budgets}
        if "usd" in units and (price is None or (outputs and price.completion is None)):
            raise _make_unpriced(target)
        if (cost is None and "usd" in units) or (tokens is None and "tokens" in units):
            raise _make_unbounded(endpoint, target, "output" if output is None else "prompt")
    rate_tokens = None
    if bounds.is_said:
        # The estimate of the record counts no tools, schemas and pictures.
        sent = len(request.content) // _BYTES_PER_TOKEN
        sent = sent if prompt is None or sent < prompt else prompt
        rate_tokens = max(request.prompt_tokens_estimate, sent) + (output or 0)
    return Ceiling(cost, tokens, rate_tokens, partial(_fit, price, outputs, prompt or 0))


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
    prompt, output = bounds.prompt, bounds.output
    if received_bytes is not None:
        output = received_bytes if output is None else min(output, received_bytes)
    tokens = 0 if prompt is None or output is None else prompt + output
    return _reckon(request.price, bounds.outputs, prompt, output) or 0, tokens


def to_units(usd: str) -> int:
    """Returns a decimal amount of USD in 10^-12 USD, rounded up."""
    whole, _, part = usd.partition(".")
    if len(part) <= _DIGITS:
        return int(whole + part.ljust(_DIGITS, "0"))  # A third of the time that Decimal takes.
    return ceil(Decimal(usd).scaleb(_DIGITS))


def _fit(price: Price | None, outputs: int, prompt: int, cost_room: int, token_room: int) -> int | None:
    """Returns the output tokens with which the request would fit into what is left; None if with none."""
    if not outputs:
        return None
    left = token_room - prompt
    if price is not None and price.completion:
        rates = _make_rates(price)
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
