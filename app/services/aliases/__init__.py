"""Aliases: names that the operator gives to models, held in memory.

aliases.py   the aliases, and how a worker gets them
targets.py   the models that they stand for
listing.py   their form in `/v1/models`, and warnings for an operator
"""

from app.services.aliases.aliases import Alias, Aliases, AliasTarget, Sort, start_aliases
from app.services.aliases.listing import make_listed_alias, make_listed_aliases, warn_of_alias
from app.services.aliases.targets import Candidate, find_alias, find_candidates, split_target

__all__ = [
    "Alias", "AliasTarget", "Aliases", "Candidate", "Sort", "find_alias", "find_candidates",
    "make_listed_alias", "make_listed_aliases", "split_target", "start_aliases", "warn_of_alias",
]  # fmt: skip
