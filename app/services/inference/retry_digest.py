"""Records the data by which an SDK's retries are found: a keyed digest of the body, and the client's name.

The SDKs of OpenAI and Anthropic send a retry count in a header, also with first attempts. Only their requests get a
digest; for all others this code does not run. services/journal/retry_links.py links retries to their originals in the
background.

The digest is keyed with the caller's gateway key, which the database does not have. So a reader of the records cannot
test whether a certain text was sent, and equal bodies of two keys have different digests.
"""

from __future__ import annotations

from hashlib import blake2b

from app.config import MAX_NAME_CHARACTERS
from app.services.inference.exchange import Exchange

# The digest takes the length and both ends of a body. In practice they distinguish two bodies of a client, because
# conversations differ at their end, and a large body costs no more than a small one.
_END_BYTES = 2_048

# 64 bits: among a million bodies of a key, two collide with a probability of 3 in 100 million.
_DIGEST_BYTES = 8

# The longest key that BLAKE2b accepts. The random part of a gateway key is at its end.
_KEY_BYTES = 64


def note_retry_digest(exchange: Exchange, content: bytes) -> None:
    """Records the digest of an SDK's request and, of a retry, the client's `User-Agent`.

    Args:
        exchange: the request; `client_retry` is on its record.
        content: its body, decompressed. The body itself is not kept.
    """
    secret = exchange.get_header("authorization") or exchange.get_header("x-api-key")
    if not secret:
        return  # The request is from the dashboard's playground.
    record = exchange.record
    ends = content if len(content) <= 2 * _END_BYTES else content[:_END_BYTES] + content[-_END_BYTES:]
    digest = blake2b(
        b"%d\n%b" % (len(content), ends),
        key=secret.encode("latin-1", "replace")[-_KEY_BYTES:],
        digest_size=_DIGEST_BYTES,
    )
    record.body_digest = digest.hexdigest()
    if record.client_retry:
        agent = exchange.get_header("user-agent")
        if agent and agent.isascii() and agent.isprintable():
            record.client_agent = agent[:MAX_NAME_CHARACTERS]
