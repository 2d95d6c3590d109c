"""UIDs that follow from texts: ``2.25.`` and a UUID as a decimal number (PS3.5 B.2), from a sha256."""

from __future__ import annotations

import hashlib


def uid_of(*parts: str) -> str:
    """A UID that follows from texts, and from nothing else; its UUID is of version 8 (RFC 9562).

    >>> uid_of("a") == uid_of("a"), uid_of("a") == uid_of("b"), uid_of("ab") == uid_of("a", "b")
    (True, False, False)
    """
    number = int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:16], "big")
    number = number & ~(0xF << 76) | 8 << 76
    return f"2.25.{number & ~(0b11 << 62) | 0b10 << 62}"
