"""Aliases: names that the operator gives to some models, held in memory."""

from app.services.aliases.aliases import Alias, Aliases, AliasTarget, start_aliases

__all__ = ["Alias", "AliasTarget", "Aliases", "start_aliases"]
