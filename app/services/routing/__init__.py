"""Where a request can be sent: from the name of a model to the providers that serve it.

names.py   the models that a name can mean        target.py  a provider and the model's id there
routes.py  the targets of a request, remembered until a list changes
"""

from app.services.routing.names import find_model
from app.services.routing.routes import Routes
from app.services.routing.target import Target

__all__ = ["Routes", "Target", "find_model"]
