"""Changes by operators: keys and their holders, groups, budgets, and the limits of the gateway.

Every change is one transaction that includes its row in the audit. Commands and routes call the same functions.
keys.py, holders.py, groups.py, gateway.py   objects with limits; key_lists.py, holder_lists.py find, views.py shows
changes.py, limits.py   possible changes, and how they are made; terms.py reads budgets, patterns.py warns
budgets.py, states.py   budgets and their state; earlier.py begins new ones; leases.py has the draws of workers
own_key.py   a key's view of itself   audit.py   all changes   journals.py, ledger.py   after lost hosts, restores
"""

from app.services.administration.audit import AuditFilter, get_command_actor, record_change, select_audit_page
from app.services.administration.budgets import end_budget, raise_budget, select_budget_page, select_budget_state
from app.services.administration.changes import GroupChanges, KeyChanges, LimitChanges, NewGroup, NewKey
from app.services.administration.gateway import change_gateway_limits, select_gateway_limits
from app.services.administration.groups import change_group, create_group, delete_group, select_group, select_groups
from app.services.administration.holder_lists import select_holder, select_holders_page, select_key_ids
from app.services.administration.holders import HolderPatch, NewHolder, change_holder, create_holder, delete_holder
from app.services.administration.journals import adopt_directory, write_off_host, write_off_worker
from app.services.administration.key_lists import KEY_STATES, list_keys, select_key_view, select_keys_page, select_names
from app.services.administration.keys import DEFAULT_OVERLAP_S, change_key, create_key, revoke_key, rotate_key
from app.services.administration.leases import check_leases, forgive_request, list_leases, release_worker
from app.services.administration.ledger import reconcile_ledger
from app.services.administration.own_key import OwnKey, select_own_budgets, select_own_key
from app.services.administration.patterns import find_idle_patterns
from app.services.administration.states import BudgetState
from app.services.administration.terms import BudgetTerms, describe_budget, parse_budget
from app.services.administration.views import GroupView, HolderView, KeyView, LimitsView

# fmt: off
__all__ = [
    "DEFAULT_OVERLAP_S", "KEY_STATES", "AuditFilter", "BudgetState", "BudgetTerms", "GroupChanges", "GroupView",
    "HolderPatch", "HolderView", "KeyChanges", "KeyView", "LimitChanges", "LimitsView", "NewGroup", "NewHolder",
    "NewKey", "OwnKey", "adopt_directory", "change_gateway_limits", "change_group", "change_holder", "change_key",
    "check_leases", "create_group", "create_holder", "create_key", "delete_group", "delete_holder", "describe_budget",
    "end_budget", "find_idle_patterns", "forgive_request", "get_command_actor", "list_keys", "list_leases",
    "parse_budget", "raise_budget", "reconcile_ledger", "record_change", "release_worker", "revoke_key", "rotate_key",
    "select_audit_page", "select_budget_page", "select_budget_state", "select_gateway_limits", "select_group",
    "select_groups", "select_holder", "select_holders_page", "select_key_ids", "select_key_view", "select_keys_page",
    "select_names", "select_own_budgets", "select_own_key", "write_off_host", "write_off_worker",
]
