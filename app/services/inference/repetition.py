"""Notes how the retries of an SDK are found: by a keyed digest of the body, and the client's name.

The SDKs of OpenAI and Anthropic count their retries in a header, which their first attempts have too. Only their
requests get a digest; for all others nothing of this runs. Retries are linked to what they repeat in the background
(services/journal/retry_links.py).

The digest's key is the caller's gateway key, which the database does not have. So a reader of the records cannot test
whether a certain text was sent, and equal bodies of two keys have different digests.
"""

from __future__ import annotations

from hashlib import blake2b

from app.config import MAX_NAME_CHARACTERS
from app.services.inference.exchange import Exchange

# With the length, these tell two bodies of a client apart in practice: conversations differ at their end. A large body
# costs no more than a small one.
_END_BYTES = 2_048

# 64 bits: among a million bodies of a key, two are alike with a probability of 3 in 100 million.
_DIGEST_BYTES = 8

# The longest key that BLAKE2b takes. The random part of a gateway key is at its end.
_KEY_BYTES = 64


def note_repetition(exchange: Exchange, content: bytes) -> None:
    """Records the digest of an SDK's request and, of a retry, the client's `User-Agent`.

    Args:
        exchange: the request; `client_retry` is on its record.
        content: its body, decompressed. Nothing of it is kept.
    """
    secret = exchange.get_header("authorization") or exchange.get_header("x-api-key")
    if not secret:
        return  # From the dashboard's playground.
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
