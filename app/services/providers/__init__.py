"""The providers that the gateway can forward requests to. A provider is `<name>.py`; if that grows too long, parts move
to `<name>_….py`, which only `<name>.py` imports.

provider.py      the record: all that the rest of the gateway knows about a provider
schema.py        the fields that it allows in the objects of a request
registry.py      all providers, and the HTTP client for each
naming.py        the names of models
pages.py         reads a provider's list of models
weights.py       the names of weights, by which models of several providers are recognised as the same
bill.py          a provider's bill
entry_fields.py  converts a provider's list entry to the catalog's

To add the provider `x`, add `x_api_key` and `x_base_url` to `Settings`, and a module `x` here with its `PROVIDER`.
"""

from __future__ import annotations

from app.services.providers.bill import Bill, BilledUse, BillSource
from app.services.providers.entry_fields import Entry
from app.services.providers.naming import Naming, fold_version
from app.services.providers.provider import EndpointSupport, Provider
from app.services.providers.registry import (
    PROVIDERS,
    ProviderClients,
    get_client,
    get_configured_providers,
    get_provider,
    is_configured,
)
from app.services.providers.schema import Schema

__all__ = [
    "PROVIDERS", "Bill", "BillSource", "BilledUse", "EndpointSupport", "Entry", "Naming", "Provider", "ProviderClients",
    "Schema", "fold_version", "get_client", "get_configured_providers", "get_provider", "is_configured",
]  # fmt: skip
