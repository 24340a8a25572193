"""Kept answers for repeated requests: those with the header `Idempotency-Key`, while IDEMPOTENCY_HOURS is set.

claim.py    one request with such a key, from its body to its kept answer
answer.py   a kept answer
cipher.py   keys derived from the caller's gateway key: they find, compare and encrypt
store.py    the rows in the database, and delayed writes    room.py  the bounds of their number
"""

from app.services.idempotency.answer import MAX_ANSWER_BYTES, KeptAnswer
from app.services.idempotency.claim import Claim, make_claim

__all__ = ["MAX_ANSWER_BYTES", "Claim", "KeptAnswer", "make_claim"]
