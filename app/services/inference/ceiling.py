"""The most that a request can cost, which its budgets reserve before it is sent."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from math import ceil
from typing import NamedTuple

from app.errors import BadRequest, PermissionDenied
from app.services.endpoints import Endpoint
from app.services.inference.adaptation import UpstreamRequest
from app.services.limits import Ceiling, Policy
from app.services.pricing import Price, get_price
from app.services.routing import Target

# Costs are whole numbers of 10^-12 USD, as all list prices are. Neither is rounded before the product.
_DIGITS = 12

# Of English text; an estimate for rates, which are settled with what was used.
_BYTES_PER_TOKEN = 4


class _Prices(NamedTuple):
    """Prices of a token, in 10^-12 USD; of the prompt's, the dearest of those in the provider's cache and others."""

    prompt: Decimal
    output: Decimal


class _Bounds(NamedTuple):
    """What bounds a request at its target.

    Attributes:
        prompt: the most prompt tokens; None if nothing bounds them.
        outputs: how many texts are generated.
        output: the most tokens of each; None if nothing bounds them.
        is_said: whether the request itself bounds its output.
        prices: None if they are not known.
    """

    prompt: int | None
    outputs: int
    output: int | None
    is_said: bool
    prices: _Prices | None

    def reckon(self, received_bytes: int | None = None) -> tuple[int | None, int | None]:
        """Returns the most that the request can cost, in 10^-12 USD, and the most tokens; None for what has no bound.

        Args:
            received_bytes: how much of a stream has arrived, which has at most as many tokens; None if that is not
                known.
        """
        output = None if self.output is None else self.outputs * self.output
        if received_bytes is not None:
            output = received_bytes if output is None else min(output, received_bytes)
        tokens = None if self.prompt is None or output is None else self.prompt + output
        if self.prices is None:
            return None, tokens
        if not any(self.prices):
            return 0, tokens
        if self.prompt is None or output is None:
            return None, tokens
        return ceil(self.prompt * self.prices.prompt + output * self.prices.output), tokens


def _make_bounds(endpoint: Endpoint, request: UpstreamRequest) -> _Bounds:
    context_length = request.target.context_length
    prompt, outputs, said = endpoint.bound_tokens(request.body, len(request.content), context_length)
    if not outputs:
        output: int | None = 0
    else:
        output = said or context_length if said is None or context_length is None else min(said, context_length)
    return _Bounds(prompt, outputs, output, said is not None or not outputs, _get_prices(request.price, outputs))


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
    bounds = _make_bounds(endpoint, request)
    cost, tokens = bounds.reckon()
    if cost is None or tokens is None:
        units = {budget.unit for subject in policy.subjects for budget in subject.budgets}
        if cost is None and bounds.prices is None and "usd" in units:
            raise _make_unpriced(target)
        if (cost is None and "usd" in units) or (tokens is None and "tokens" in units):
            raise _make_unbounded(endpoint, target, "output" if bounds.output is None else "prompt")
    return Ceiling(
        cost=cost,
        tokens=tokens,
        rate_tokens=_estimate_prompt(request, bounds) + bounds.outputs * (bounds.output or 0)
        if bounds.is_said
        else None,
        fits=partial(_fit, bounds.prices, bounds.prompt or 0, bounds.outputs),
    )


def _estimate_prompt(request: UpstreamRequest, bounds: _Bounds) -> int:
    """Returns an estimate that counts tools, schemas and pictures too, unlike that for the record."""
    sent = len(request.content) // _BYTES_PER_TOKEN
    return max(request.prompt_tokens_estimate, sent if bounds.prompt is None else min(sent, bounds.prompt))


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
    cost, tokens = _make_bounds(endpoint, request).reckon(received_bytes)
    return cost or 0, tokens or 0


def to_units(usd: str) -> int:
    """Returns a decimal amount of USD in 10^-12 USD, rounded up."""
    return ceil(Decimal(usd).scaleb(_DIGITS))


def _get_prices(price: Price | None, outputs: int) -> _Prices | None:
    if price is None or (outputs and price.completion is None):
        return None
    prompt = max(price.prompt, price.input_cache_read or price.prompt)
    return _Prices(prompt.scaleb(_DIGITS), (price.completion or Decimal(0)).scaleb(_DIGITS))


def _fit(prices: _Prices | None, prompt: int, outputs: int, cost_room: int, token_room: int) -> int | None:
    """Returns the output tokens with which the request would fit into what is left; None if with none."""
    if not outputs:
        return None
    most = token_room - prompt
    if prices is not None and prices.output:
        most = min(most, int((cost_room - prompt * prices.prompt) // prices.output))
    return most // outputs if most >= outputs else None


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
