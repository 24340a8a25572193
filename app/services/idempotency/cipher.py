"""Finds, compares and encrypts the kept answers of one gateway key, with secrets derived from that key.

The database has only the SHA-256 of a gateway key, from which none of these secrets can be derived. So a reader of the
database, or of a copy of it, can neither read an answer nor test whether a guessed text was sent or answered.
"""

from __future__ import annotations

import hmac
import os

# Names the purpose and the format. After a change, kept answers are not found, so their requests are served again.
_INFO = b"llm-gateway kept answers, version 1"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class Unreadable(Exception):
    """The stored answer was not encrypted by this key, or was changed."""


class KeyCipher:
    """The secrets derived from a gateway key by HKDF, one for each purpose.

    Args:
        gateway_key: the key as the caller sent it.
    """

    def __init__(self, gateway_key: str) -> None:
        # Only gateways that keep answers need the package; a check before the start verifies it.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        secrets = HKDF(SHA256(), 3 * _KEY_BYTES, salt=None, info=_INFO).derive(gateway_key.encode())
        self._finding, self._comparing = secrets[:_KEY_BYTES], secrets[_KEY_BYTES : 2 * _KEY_BYTES]
        self._cipher = AESGCM(secrets[2 * _KEY_BYTES :])

    def make_id(self, idempotency_key: str) -> bytes:
        """Returns the id under which the answer of an Idempotency-Key is kept, 32 bytes."""
        return hmac.digest(self._finding, idempotency_key.encode(), "sha256")

    def digest_request(self, path: str, content: bytes) -> bytes:
        """Returns the digest by which requests are compared, 32 bytes."""
        digest = hmac.new(self._comparing, path.encode() + b"\0", "sha256")
        digest.update(content)
        return digest.digest()

    def seal(self, id: bytes, data: bytes) -> bytes:
        """Returns some bytes encrypted by AES-256-GCM; they can be decrypted only under the same id."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, id)

    def open(self, id: bytes, sealed: bytes) -> bytes:
        """Returns the bytes that were passed to `seal`.

        Raises:
            Unreadable: it was sealed by another key or under another id, or was changed.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], id)
        except (InvalidTag, ValueError) as error:
            raise Unreadable from error
