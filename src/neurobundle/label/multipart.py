"""Multipart bodies (RFC 2046, 5.1.1) while they come: a *part* is read piece by piece, and never held as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from neurobundle.errors import InputError

#: So many bytes are read at a time.
PIECE = 1 << 20
_LONGEST_HEAD = 16 << 10


def parts_of(read: Callable[[int], bytes], boundary: bytes) -> Iterator[Iterator[bytes]]:
    r"""The parts of a multipart body (RFC 2046, 5.1.1), each in pieces, which are to be read in their order.

    Args:
        read: so many bytes of the body, or fewer; none at its end.
        boundary: between parts.

    Raises:
        InputError: if the body ends before its last boundary.

    >>> import io
    >>> body = "\n".join(["--x", "Content-Type: a", "", "one", "--x", "", "two", "--x--"]).replace("\n", "\r\n")
    >>> [b"".join(part) for part in parts_of(io.BytesIO(body.encode()).read, b"x")]
    [b'one', b'two']
    """
    body = _Body(read, b"\r\n--" + boundary)
    for _ in body.part():  # what stands before the first part is nobody's
        pass
    while body.begin():
        yield body.part()


class _Body:
    """A multipart body while it comes: never more of it in memory than a piece."""

    def __init__(self, read: Callable[[int], bytes], mark: bytes) -> None:
        self._read, self._mark, self._held = read, mark, bytearray(b"\r\n")

    def part(self) -> Iterator[bytes]:
        """Up to the next boundary."""
        while (end := self._held.find(self._mark)) < 0:
            keep = len(self._held) - len(self._mark) + 1
            if keep > 0:
                yield bytes(self._held[:keep])
                del self._held[:keep]
            self._more()
        yield bytes(self._held[:end])
        del self._held[: end + len(self._mark)]

    def begin(self) -> bool:
        """Go over the head of a part; False if there is none any more."""
        while len(self._held) < 2:
            self._more()
        if self._held.startswith(b"--"):
            return False
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > _LONGEST_HEAD:
                raise not_handed_over("the archive's answer is no multipart body")
            self._more()
        del self._held[: end + 4]
        return True

    def _more(self) -> None:
        piece = self._read(PIECE)
        if not piece:
            raise not_handed_over("the archive's answer ended early")
        self._held += piece


def not_handed_over(cause: str) -> InputError:
    """What becomes of a study that an archive does not hand over whole."""
    return InputError(cause, "Try again, and look into the archive's log if it stays so.")
