"""What operators change: keys and their holders, groups, budgets, and the limits of the gateway.

Every change is one transaction with its row in the audit. Commands and routes call the same functions.

keys.py, holders.py   keys and who has them; key_lists.py finds keys
groups.py, gateway.py groups of holders, and the whole gateway
changes.py            what may be asked for; terms.py reads a budget from a text, limits.py changes limits
budgets.py            budgets as they stand, raised and ended; states.py computes them
leases.py             what workers have drawn from budgets     earlier.py   what a new budget begins with
views.py              what is shown of keys and groups, own_key.py to the key itself; patterns.py finds idle patterns
audit.py              who changed what
ids.py                ids of holders and groups
"""

from app.services.administration.audit import AuditFilter, get_command_actor, record_change, select_audit_page
from app.services.administration.budgets import end_budget, raise_budget, select_budget_page, select_budget_state
from app.services.administration.changes import GroupChanges, KeyChanges, LimitChanges, NewGroup, NewKey
from app.services.administration.gateway import change_gateway_limits, select_gateway_limits
from app.services.administration.groups import change_group, create_group, delete_group, select_group, select_groups
from app.services.administration.key_lists import list_keys, select_key_view, select_keys_page
from app.services.administration.keys import DEFAULT_OVERLAP_S, change_key, create_key, revoke_key, rotate_key
from app.services.administration.leases import check_books, forgive_request, list_leases, release_worker
from app.services.administration.own_key import OwnKey, select_own_key
from app.services.administration.patterns import find_idle_patterns
from app.services.administration.states import BudgetState
from app.services.administration.terms import BudgetTerms, describe_budget, parse_budget
from app.services.administration.views import GroupView, KeyView, LimitsView

# fmt: off
__all__ = [
    "DEFAULT_OVERLAP_S", "AuditFilter", "BudgetState", "BudgetTerms", "GroupChanges", "GroupView", "KeyChanges",
    "KeyView", "LimitChanges", "LimitsView", "NewGroup", "NewKey", "OwnKey", "change_gateway_limits",
    "change_group", "change_key", "check_books", "create_group", "create_key", "delete_group", "describe_budget",
    "end_budget", "find_idle_patterns", "forgive_request", "get_command_actor", "list_keys", "list_leases",
    "parse_budget", "raise_budget", "record_change", "release_worker", "revoke_key", "rotate_key",
    "select_audit_page", "select_budget_page", "select_budget_state", "select_gateway_limits", "select_group",
    "select_groups", "select_key_view", "select_keys_page", "select_own_key",
]
# fmt: on
