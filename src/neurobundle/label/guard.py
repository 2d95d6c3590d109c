"""What stands between the network and MONAI Label's routes, and lets through what they can be trusted with.

MONAI Label 0.8.5 passes ids and tags of a request on to paths of its store, unpacks archives of any size, forwards any
path to the PACS with its own credentials, and answers pages of any origin. The *guard* is an ASGI application (ASGI
3.0, asgi.readthedocs.io) around another one; it needs no package, and knows no patient. It *refuses* a request with a
status and one sentence, and says nothing of what the request held.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qsl

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

#: Names by which a machine calls itself.
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})

#: Of an image, a label, a model: one name, no path.
_NAME = re.compile(r"\w[\w.+=@ -]{0,254}")
_TAG = re.compile(r"\w[\w-]{0,63}")
_NAMES, _TAGS = frozenset({"image", "id", "label", "model", "session_id"}), frozenset({"tag", "label_tag"})

_NO = frozenset({"", "false", "0", "no", "off", "f", "n"})

_UID = r"[0-9.]{1,64}"
#: What a viewer asks of DICOMweb (PS3.18, 10.4 and 10.6), below the archive's address.
_DICOMWEB = re.compile(
    rf"(studies|series|instances|studies/{_UID}(/series|/instances)?|studies/{_UID}/series/{_UID}(/instances)?"
    rf"|studies/{_UID}/series/{_UID}/instances/{_UID}(/frames/[0-9]{{1,6}}(,[0-9]{{1,6}})*)?)"
    r"(/metadata|/rendered|/thumbnail)?"
)
_REFUSED_UPLOAD = re.compile(r"/datastore/?|/datastore/image/?|/datastore/image/info/?|/model/.*")
_PROXY = re.compile(r"/proxy/dicom/(?:(?:wado|qido|stow)/)?(?P<rest>.*)")

#: The viewer that MONAI Label carries compiles WebAssembly and starts workers from blobs; no page loads from elsewhere.
_STRICT = "default-src 'self'; frame-ancestors 'none'"
_VIEWER = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self' data: blob:; "
    "font-src 'self' data:; frame-ancestors 'none'"
)
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}


class Refusal(NamedTuple):
    """Why a request goes no further.

    Attributes:
        status: of HTTP.
        cause: a sentence that holds nothing of the request.
    """

    status: int
    cause: str


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        body_bytes: of a request's body, whether its length was said beforehand or not.
        idle_s: seconds between two pieces of a body.
        inferences: that run or wait at a time.
    """

    body_bytes: int = 2 << 30
    idle_s: float = 30.0
    inferences: int = 8


class Guard:
    """An ASGI application that refuses what MONAI Label would do, and passes on the rest.

    Args:
        app: MONAI Label's, or any other.
        limits: of a request.
        hosts: names under which clients may address this server, without port.
        origins: further pages that may use it, as ``https://viewer.hospital``; its own may.
    """

    def __init__(
        self,
        app: Application,
        limits: Limits | None = None,
        hosts: Collection[str] = LOOPBACK,
        origins: Collection[str] = (),
    ) -> None:
        self.app, self.limits = app, limits or Limits()
        self.hosts, self.origins = frozenset(hosts), frozenset(origins)
        self._inferences = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope.get("query_string", b"").decode("latin-1")
        refused = refusal(scope["method"], scope["path"], query, headers, self.hosts, self.origins, self.limits)
        inference = scope["method"] == "POST" and scope["path"].startswith(("/infer/", "/batch/infer/"))
        if refused is None and inference and self._inferences >= self.limits.inferences:
            refused = Refusal(429, "The server is busy with other inferences. Try again in a minute.")
        if refused is not None:
            await _say(send, refused)
            return
        self._inferences += inference
        try:
            await self._pass_on(scope, receive, send, headers.get("origin", ""))
        finally:
            self._inferences -= inference

    async def _pass_on(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, origin: str) -> None:
        body = _Body(receive, self.limits)
        answer = _Answer(send, scope["path"], origin if origin in self.origins else "", body)
        try:
            await self.app(scope, body, answer)
        except _TooMuch:
            await answer.end()


def refusal(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    hosts: Collection[str] = LOOPBACK,
    origins: Collection[str] = (),
    limits: Limits | None = None,
) -> Refusal | None:
    """What is wrong with a request by its first lines; None if nothing.

    Args:
        method: of HTTP.
        path: decoded.
        query: as it came, without the question mark.
        headers: by lower-case name.
        hosts: names under which this server may be addressed.
        origins: further pages that may use it.
        limits: of a request.

    >>> refusal("PUT", "/datastore/label", "image=anna&tag=final", {"host": "localhost:8000"})
    >>> refusal("PUT", "/datastore/label", "image=anna&tag=../../x", {"host": "localhost:8000"}).status
    400
    """
    host = headers.get("host", "")
    if re.sub(r":[0-9]+$", "", host) not in hosts:
        return Refusal(421, "This server is not addressed by that name.")
    return (
        _refused_origin(headers, host, origins)
        or _refused_path(method, path)
        or _refused_query(path, query)
        or _refused_length(headers, limits or Limits())
    )


def _refused_origin(headers: Mapping[str, str], host: str, origins: Collection[str]) -> Refusal | None:
    origin = headers.get("origin")
    own = {f"http://{host}", f"https://{host}"}
    if origin is not None and origin not in own and origin not in origins:
        return Refusal(403, "A page of another origin may not use this server.")
    # A picture or a script of another site's page has no Origin; a link that a person follows may.
    if headers.get("sec-fetch-site") == "cross-site" and origin is None and headers.get("sec-fetch-mode") != "navigate":
        return Refusal(403, "A page of another site may not load from this server.")
    return None


def _refused_path(method: str, path: str) -> Refusal | None:
    if ".." in path.split("/") or any(character in path for character in "\\\0\r\n"):
        return Refusal(400, "The path is no path of this server.")
    if method == "PUT" and _REFUSED_UPLOAD.fullmatch(path):
        return Refusal(405, "Images come from studies, and weights from a training: none are uploaded.")
    proxied = _PROXY.fullmatch(path)
    if proxied is None:
        return Refusal(400, "The path is no path of this server.") if path.startswith("/proxy/") else None
    if method not in ("GET", "HEAD"):
        return Refusal(405, "The archive can be read through this server, and not written.")
    if not _DICOMWEB.fullmatch(proxied["rest"]):
        return Refusal(400, "That is no resource of DICOMweb that a viewer asks for.")
    return None


def _refused_query(path: str, query: str) -> Refusal | None:
    for name, value in parse_qsl(query, keep_blank_values=True):
        long = path.startswith(("/train", "/batch")) or path.rstrip("/") == "/scoring"
        if name == "run_sync" and long and value.lower() not in _NO:
            return Refusal(400, "Nobody else would be answered meanwhile. Leave run_sync out, and ask how it goes.")
        if name in _NAMES and value and not is_name(value):
            return Refusal(400, f"The value of {name} is no id.")
        if name in _TAGS and value and not is_tag(value):
            return Refusal(400, f"The value of {name} is no tag: letters, digits, - and _.")
        if name == "uncompress" and value.lower() not in ("", "false", "0"):
            return Refusal(400, "Archives are not unpacked here. Upload a NIfTI file.")
    return None


def _refused_length(headers: Mapping[str, str], limits: Limits) -> Refusal | None:
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        return Refusal(400, "The length of the body is no number.")
    return _too_large(limits) if int(length) > limits.body_bytes else None


def is_name(text: str) -> bool:
    """Whether a text may be the id of an image, a label or a model: one name, and no path.

    >>> is_name("sub-01_T1w.run 2"), is_name("../x"), is_name("a/b"), is_name(".hidden"), is_name("a..b")
    (True, False, False, False, False)
    """
    return _NAME.fullmatch(text) is not None and ".." not in text


def is_tag(text: str) -> bool:
    """Whether a text may be the tag of a label, which is a folder's name.

    >>> is_tag("final"), is_tag("version_2"), is_tag("../x"), is_tag("")
    (True, True, False, False)
    """
    return _TAG.fullmatch(text) is not None


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"The body is larger than {limits.body_bytes >> 20} MiB.")


class _TooMuch(Exception):
    """A body that is refused while it comes."""


class _Body:
    """Receives a request's body, piece by piece, until one comes too late or is one too many."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._bytes, self._done = 0, False
        self.refused: Refusal | None = None

    async def __call__(self) -> Message:
        if self._done:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._limits.idle_s)
        except TimeoutError:
            self._refuse(Refusal(408, "The body did not come in time."))
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limits.body_bytes:
            self._refuse(_too_large(self._limits))
        self._done = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    def _refuse(self, why: Refusal) -> NoReturn:
        self.refused = why
        raise _TooMuch


class _Answer:
    """Sends an answer with the guard's headers; in its place the refusal of a body, if nothing was sent before."""

    def __init__(self, send: Send, path: str, origin: str, body: _Body) -> None:
        self._send, self._path, self._origin, self._body = send, path, origin, body
        self._started = False

    async def __call__(self, message: Message) -> None:
        # Whoever parses a body makes an answer of its own of what went wrong there.
        if self._body.refused is not None and not self._started:
            raise _TooMuch
        if message["type"] == "http.response.start":
            self._started = True
            message = {**message, "headers": _headers(message.get("headers", ()), self._path, self._origin)}
        await self._send(message)

    async def end(self) -> None:
        """Send the refusal."""
        if not self._started and self._body.refused is not None:
            self._started = True
            await _say(self._send, self._body.refused)


def _headers(given: Iterable[tuple[bytes, bytes]], path: str, origin: str) -> list[tuple[bytes, bytes]]:
    ours = {**_HEADERS, b"content-security-policy": (_VIEWER if path.startswith("/ohif") else _STRICT).encode()}
    if origin:  # MONAI Label's own words stand for a page that may use it
        ours |= {b"access-control-allow-origin": origin.encode("latin-1"), b"vary": b"Origin"}
    dropped = () if origin else (b"access-control-",)
    kept = [(name, value) for name, value in given if not name.lower().startswith((*ours, *dropped))]
    return [*kept, *ours.items()]


async def _say(send: Send, refused: Refusal) -> None:
    content = json.dumps({"detail": refused.cause}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    headers += [(b"connection", b"close"), *_HEADERS.items()]
    headers += [(b"retry-after", b"60")] if refused.status == 429 else []
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
