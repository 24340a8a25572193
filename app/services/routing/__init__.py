"""The possible targets of a request: from the name of a model to the providers that serve it.

names.py       the models that a name can mean       target.py    a provider and the model's id there
candidates.py  their targets, and the same model elsewhere
route.py       all targets of a request, in groups   routes.py    routes, cached until something changes
ranking.py     the order within a group              affinity.py  one target for one conversation
health.py      recent failures of targets
"""

from app.services.routing.affinity import get_session, make_seed
from app.services.routing.health import TargetHealth, get_avoided_s
from app.services.routing.names import find_model
from app.services.routing.ranking import order_targets
from app.services.routing.route import Route
from app.services.routing.routes import Routes
from app.services.routing.target import Target

__all__ = [
    "Route", "Routes", "Target", "TargetHealth", "find_model", "get_avoided_s", "get_session", "make_seed",
    "order_targets",
]  # fmt: skip
