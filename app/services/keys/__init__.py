"""Gateway keys, and the check of a caller's key.

keys.py             makes, recognises, lists and revokes keys
authentication.py   checks the key of a request, mostly from memory
"""

from app.services.keys.authentication import OPERATOR_KEY, REVOCATION_S, Key, authenticate
from app.services.keys.keys import create_key, digest_of, is_well_formed, list_keys, new_key, revoke_key

__all__ = [
    "OPERATOR_KEY",
    "REVOCATION_S",
    "Key",
    "authenticate",
    "create_key",
    "digest_of",
    "is_well_formed",
    "list_keys",
    "new_key",
    "revoke_key",
]
