"""The API as an OpenAPI 3.1 document, made from the Structs that check requests and write answers.

operations.py       the table: the parameters, bodies and answers of each route
requests.py         bodies of inference requests; inference_answers.py, answers.py, records.py   answers
schemas.py          Structs → JSON Schema           parameters.py   paths, queries, headers
error_responses.py  the tree of errors → responses  examples.py     answers of the sandbox
document.py         assembles the document         routes.py       GET /openapi.json
"""

from app.openapi.document import to_template
from app.openapi.operations import OPERATIONS
from app.openapi.routes import bp

__all__ = ["OPERATIONS", "bp", "to_template"]
