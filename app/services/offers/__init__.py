"""Who offers a model: all providers that serve it, with price, limits and measured quality side by side."""

from app.services.offers.offers import find_offered_model, render_offers

__all__ = ["find_offered_model", "render_offers"]
