"""The model catalog: catalog.py holds all lists, cache.py decides when one is fetched, and loading.py fetches it.

model_list.py: a list at one time (search.py); entry.py: a model in it; equivalents.py: equal models of providers
representations.py: the catalog as responses; merged_list.py, merged_model.py: for SDKs; fireworks.py: for programs
"""

from app.services.models.catalog import (
    Catalogs,
    CatalogState,
    fetch_for_unknown,
    get_catalog_states,
    get_equivalents,
    get_model_list,
    get_model_lists,
    peek_model_list,
    refresh_if_due,
)
from app.services.models.entry import Allows, Architecture, Model, Pricing
from app.services.models.equivalents import Served, are_same
from app.services.models.fireworks import (
    _fireworks_models_cache,
    fetch_models_from_fireworks,
    fetch_specific_model_from_fireworks,
    normalize_fireworks_model,
)
from app.services.models.merged_list import OwnModels, PageQuery, render_merged_list
from app.services.models.merged_model import ALIAS_PREFIX, MergedModel, make_merged_model
from app.services.models.model_list import ModelList
from app.services.models.representations import ListQuery, Rendered, make_digest, make_times, render_list, render_model
from app.services.models.search import MAX_OFFSET, MAX_SEARCH_CHARACTERS, MAX_SEARCH_WORDS

__all__ = [
    "ALIAS_PREFIX", "MAX_OFFSET", "MAX_SEARCH_CHARACTERS", "MAX_SEARCH_WORDS", "Allows", "Architecture", "CatalogState",
    "Catalogs", "ListQuery", "MergedModel", "Model", "ModelList", "OwnModels", "PageQuery", "Pricing", "Rendered",
    "Served", "_fireworks_models_cache", "are_same", "fetch_for_unknown", "fetch_models_from_fireworks",
    "fetch_specific_model_from_fireworks", "get_catalog_states", "get_equivalents", "get_model_list", "get_model_lists",
    "make_digest", "make_merged_model", "make_times", "normalize_fireworks_model", "peek_model_list", "refresh_if_due",
    "render_list", "render_merged_list", "render_model",
]  # fmt: skip
