"""Values made up from a JSON Schema: the arguments of a tool call, the object of a JSON response.

`sampler` makes a value, `numbers`, `texts` and `patterns` its parts, `schemas` follows references and merges schemas
that must hold together, and `checker` finally checks each value, so that every returned value is valid.
"""

from app.sandbox.samples.errors import UnsupportedSchema
from app.sandbox.samples.sampler import make_sample

__all__ = ["UnsupportedSchema", "make_sample"]
