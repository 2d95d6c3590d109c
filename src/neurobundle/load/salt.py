"""Names that do not tell what they stand for: hex digits of a salted sha256.

Who knows the salt can find out whether a name, a path or a UID that they know is in the data; so a site sets its own.
"""

from __future__ import annotations

import hashlib
import os

#: The environment variable with a salt of one's own.
SALT_VARIABLE = "NEUROBUNDLE_SALT"

#: What everybody's names are salted with who sets none.
KNOWN_SALT = "neurobundle"


def salt() -> str:
    """The user's salt, or the known one; an empty one counts as unset."""
    return os.environ.get(SALT_VARIABLE) or KNOWN_SALT


def is_known() -> bool:
    """Whether everybody knows the salt."""
    return salt() == KNOWN_SALT


def digest(text: str, digits: int = 8) -> str:
    """The first hex digits of the salted sha256 of a text; the same for the same text and salt.

    Args:
        text: a UID, or a path of any name.
        digits: how many, up to 64.
    """
    # A path whose bytes are no UTF-8 has lone surrogates in it.
    return hashlib.sha256(f"{salt()}{text}".encode("utf-8", "surrogatepass")).hexdigest()[:digits]
