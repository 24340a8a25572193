"""The offers for a model: all providers that serve it, with price, limits and measured quality side by side."""

from app.services.offers.offers import Offer, OfferedModel, find_offered_model, get_offers, render_offers

__all__ = ["Offer", "OfferedModel", "find_offered_model", "get_offers", "render_offers"]
