"""The record of a provider: everything that the rest of the gateway knows about it.

The facts about each provider are from its own reference and OpenAPI description, read in 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.config import Settings
from app.services.pricing import Billing, PriceTable
from app.services.providers.bill import BillSource
from app.services.providers.naming import Naming
from app.services.providers.schema import Schema
from app.upstream import UpstreamClient

# OpenAI's chat fields that none of the four providers supports. Fireworks refuses each with 400 "Extra inputs are not
# permitted"; to a provider without OpenAI's storage, audio or web search they mean nothing. A field that no schema
# knows is not removed, so that the provider's error reveals a misspelt name.
OPENAI_ONLY_FIELDS = frozenset(
    {
        "audio",
        "modalities",
        "moderation",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "store",
        "verbosity",
        "web_search_options",
    }
)

# The same below the top level. No provider pads its events against observers of the network.
OPENAI_ONLY_NESTED_FIELDS = {"stream_options": frozenset({"include_obfuscation"})}

# Fields of Anthropic's requests that clients for several APIs also send with chat requests. `system` and
# `stop_sequences` are not among them: without them the response would be different, so the provider's error is better.
ANTHROPIC_ONLY_FIELDS = frozenset(
    {
        "anthropic_beta",
        "anthropic_version",
        "betas",
        "cache_control",
        "container",
        "context_management",
        "inference_geo",
        "mcp_servers",
    }
)

# vLLM and SGLang accept -1 for "off", and no upper bound below the size of a vocabulary.
OPEN_TOP_K = (-1, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSupport:
    """A provider's support for one endpoint, and the necessary changes to its requests.

    Attributes:
        path: the endpoint's path at the provider, below its base URL.
        dropped_fields: top-level fields to remove.
        dropped_nested_fields: field → the names to remove from its object, or from each object in its list.
        message_schema: the fields that the provider allows in messages; others are removed. None if it accepts any.
        accepts_null_in_messages: whether a field of a message may be null. If not, such fields are removed.
        accepts_developer_role: whether it knows the role `developer`. If not, these messages get another role.
        renamed_fields: field → the provider's name for it.
        accepted_values: field → the values that the provider accepts; a field with another value is removed.
        ranges: field → the smallest and the greatest number that the provider accepts, which may be infinite; others
            are refused.
        max_unstreamed_tokens: the provider requires streaming above this many requested tokens; None if it does not.
        accepts_null: whether a top-level field may be null. If not, such fields are removed.
        accepts_stream_options: whether it knows `stream_options`. If not, they are removed, and its streams have usage.
        serves_unlisted: whether it serves models that are not in its list, under ids of no fixed form. A name that no
            list contains is then sent to it unchanged.
        make_url: (base URL, model) → the URL, for an endpoint outside the base URL; None if `path` has it.
        write_request: body → the provider's body, for an endpoint with another form there.
        read_response: the provider's whole response → the endpoint's, likewise; raises ValueError if it is invalid.
    """

    path: str
    dropped_fields: frozenset[str] = frozenset()
    dropped_nested_fields: Mapping[str, frozenset[str]] = field(default_factory=dict)
    message_schema: Schema | None = None
    accepts_null_in_messages: bool = True
    accepts_developer_role: bool = False
    renamed_fields: Mapping[str, str] = field(default_factory=dict)
    accepted_values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    max_unstreamed_tokens: int | None = None
    accepts_null: bool = True
    accepts_stream_options: bool = True
    serves_unlisted: bool = False
    make_url: Callable[[str, str], str] | None = None
    write_request: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    read_response: Callable[[Any], Any] | None = None


# The limits in OpenAI's response headers, which many servers imitate.
OPENAI_LIMIT_HEADERS = frozenset(
    f"x-ratelimit-{which}-{what}" for which in ("limit", "remaining", "reset") for what in ("requests", "tokens")
)


def _no_generation_s(headers: Mapping[str, str]) -> float | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Provider:
    """One provider; compared by identity.

    Attributes:
        name: its name in URLs, in `provider` and in records, and the prefix of its settings.
        title: its name in messages.
        site_url: its web site.
        serves: the endpoints that it supports, by the endpoint's name.
        fetch_pages: fetches its list of models and yields the raw entries, page by page. In a list of many pages, one
            without a new model is the last.
        is_paged: whether the list takes so many requests that they are not repeated for one unknown name.
        normalize: a raw entry of the list → the catalog's entry, with the fields of `Model`.
        naming: the names of its models.
        billing: its billing rules.
        probe: (client, timeout in seconds) → sends a request that costs nothing and that the provider refuses if it
            refuses the gateway's key or account; None if its host has no such request. A public list of models would
            prove nothing.
        fetch_prices: (client, timeout in seconds) → the prices of a separate list; None if the models' entries
            contain them.
        affinity_headers: a client's request header → the provider's header for the same, in lower case. The provider
            serves requests with equal values on one machine, where the beginning of the conversation is cached.
        shown_headers: the response headers that a caller may see, in lower case: limits and measurements, but no header
            that names an account, a deployment or a host.
        request_id_headers: its response headers that may contain its id for a request, the best first.
        own_limit_headers: the shown headers about the provider's remaining limits for the gateway.
        get_generation_s: response headers → its generation time in seconds; None if they do not have it.
        bill: the source of its bill; None if the gateway cannot know.
        make_name_headers: the gateway's name → request headers by which the provider's bill distinguishes this
            gateway's requests; None if it has none.
    """

    name: str
    title: str
    site_url: str
    serves: Mapping[str, EndpointSupport]
    fetch_pages: Callable[[UpstreamClient], Iterator[list[Any]]]
    is_paged: bool = False
    normalize: Callable[[Mapping[str, Any]], dict[str, Any]]
    naming: Naming
    billing: Billing
    probe: Callable[[UpstreamClient, float], object] | None = None
    fetch_prices: Callable[[UpstreamClient, float], PriceTable] | None = None
    affinity_headers: Mapping[str, str] = field(default_factory=dict)
    shown_headers: frozenset[str] = OPENAI_LIMIT_HEADERS
    request_id_headers: tuple[str, ...] = ("x-request-id", "cf-ray")
    get_generation_s: Callable[[Mapping[str, str]], float | None] = _no_generation_s
    bill: BillSource | None = None
    make_name_headers: Callable[[str], Mapping[str, str]] | None = None
    own_limit_headers: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        named = frozenset(name for name in self.shown_headers if name.startswith("x-ratelimit-"))
        object.__setattr__(self, "own_limit_headers", named)  # The class is frozen.

    @property
    def key_setting(self) -> str:
        """The environment name of the setting that holds its key."""
        return f"{self.name}_API_KEY".upper()

    def get_api_keys(self, settings: Settings) -> tuple[str, ...]:
        """Returns the provider's keys from `settings`, the first one to use first; () if none is set."""
        keys: tuple[str, ...] = getattr(settings, f"{self.name}_api_key")
        return keys

    def get_base_url(self, settings: Settings) -> str:
        """Returns the provider's base URL from `settings`, without a slash at the end."""
        url: str = getattr(settings, f"{self.name}_base_url")
        return url
