"""Gateway keys, and the check of a caller's key.

keys.py             creates and recognises keys
authentication.py   checks the key of a request
live_keys.py        the data in a worker's memory: keys, subjects, policies
snapshot.py         the live keys in memory, renewed in the background
half_restored.py    recognises a database whose tables are still being filled
snapshot_file.py    the file with the keys, for a worker that starts while the database is away
lookups.py          looks up keys that are not in memory
"""

from app.services.keys.authentication import authenticate, find_key, find_known_key
from app.services.keys.keys import OPERATOR_KEY, PREFIX, Key, digest_of, make_id, new_key, raise_if_no_key
from app.services.keys.snapshot import GRACE_S, REVOCATION_S, KeySnapshot, KeysState, get_keys_state, start_keys

# fmt: off
__all__ = [
    "GRACE_S", "OPERATOR_KEY", "PREFIX", "REVOCATION_S", "Key", "KeySnapshot", "KeysState", "authenticate", "digest_of",
    "find_key", "find_known_key", "get_keys_state", "make_id", "new_key", "raise_if_no_key", "start_keys",
]
# fmt: on
