"""Secrets at rest: sealed with AES-256-GCM under a key that no device holds.

A row of an access key travels through logs, copies and discarded disks. What it says of the secret
is readable only with the cluster's sealing key, and only in the row of that access key: the
access key is the associated data, so a sealed secret moved to another row does not open.
"""

import random
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pinfold.model.errors import Corrupt, Invalid

KEY_BYTES: Final = 32

_HEAD: Final = b"\x01\x00"
"""Version of the form, and the number of the key: one key so far."""

_NONCE_BYTES: Final = 12


class Sealer:
    """Seals and opens secrets under one key."""

    def __init__(self, key: bytes, rng: random.Random) -> None:
        """Invalid when `key` has not `KEY_BYTES` bytes."""
        if len(key) != KEY_BYTES:
            raise Invalid(f"a sealing key has {KEY_BYTES} bytes, this one {len(key)}")
        self._cipher = AESGCM(key)
        self._rng = rng

    def seal(self, secret: str, access_key: str) -> bytes:
        """The secret as it may be stored in the row of this access key."""
        nonce = self._rng.randbytes(_NONCE_BYTES)
        return _HEAD + nonce + self._cipher.encrypt(nonce, secret.encode(), access_key.encode())

    def unseal(self, sealed: bytes, access_key: str) -> str:
        """The secret again; Corrupt when it was sealed for another key or under another one."""
        head, nonce = sealed[: len(_HEAD)], sealed[len(_HEAD) : len(_HEAD) + _NONCE_BYTES]
        if head != _HEAD or len(nonce) != _NONCE_BYTES:
            raise Corrupt(f"the secret of {access_key} is sealed in an unknown form")
        try:
            secret = self._cipher.decrypt(
                nonce, sealed[len(_HEAD) + _NONCE_BYTES :], access_key.encode()
            )
        except InvalidTag:
            raise Corrupt(
                f"the secret of {access_key} does not open: the sealing key is another one, "
                "or the row is damaged"
            ) from None
        return secret.decode()
