"""Changes of aliases by operators: commands and routes call the same functions.

terms.py    the terms of an alias, and which of them are refused
aliases.py  creates, changes, deletes and shows aliases, each change with its row in the audit
"""

from app.services.alias_administration.aliases import (
    AliasView,
    change_alias,
    create_alias,
    remove_alias,
    select_alias_view,
    select_alias_views,
    set_alias,
)
from app.services.alias_administration.terms import AliasChanges, NewAlias, TargetTerms

__all__ = [
    "AliasChanges", "AliasView", "NewAlias", "TargetTerms", "change_alias", "create_alias",
    "remove_alias", "select_alias_view", "select_alias_views", "set_alias",
]  # fmt: skip
