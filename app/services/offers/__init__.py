"""Who offers a model: all providers that serve it, with price, limits and measured quality side by side."""

from app.services.offers.offers import OfferedModel, find_offered_model, render_offers

__all__ = ["OfferedModel", "find_offered_model", "render_offers"]
