"""What operators change about aliases: commands and routes call the same functions.

terms.py    what may be asked for, and what is refused
aliases.py  makes, changes, deletes and shows aliases, each change with its row in the audit
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
