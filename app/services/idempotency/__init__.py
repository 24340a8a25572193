"""Answers that are kept for repeated requests: those with the header `Idempotency-Key`, while IDEMPOTENCY_HOURS is set.

claim.py    one request under such a key, from its body to the answer that is kept
answer.py   what is kept
cipher.py   keys derived from the caller's gateway key: they find, compare and encrypt
store.py    the rows in the database, their bounds, and what must be written later
"""

from app.services.idempotency.answer import MAX_ANSWER_BYTES, KeptAnswer
from app.services.idempotency.claim import Claim, make_claim

__all__ = ["MAX_ANSWER_BYTES", "Claim", "KeptAnswer", "make_claim"]
