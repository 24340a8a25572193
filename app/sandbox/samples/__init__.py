"""Values made up from a JSON Schema: the arguments of a tool call, the object of a JSON response.

`sampler` makes a value, `numbers`, `texts` and `patterns` its parts, `schemas` follows references and merges what must
hold together, and `checker` checks each value in the end, so that a value that is returned is valid.
"""

from app.sandbox.samples.errors import UnsupportedSchema
from app.sandbox.samples.sampler import make_sample

__all__ = ["UnsupportedSchema", "make_sample"]
