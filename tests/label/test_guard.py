"""The guard by itself: requests as ASGI hands them over, and an application that answers everything."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from neurobundle.label.guard import Guard, Limits, refusal

HOST = {"host": "127.0.0.1:8000"}
FEW = Limits(body_bytes=10, idle_s=0.05, inferences=2)


async def everything(scope: Any, receive: Any, send: Any) -> None:
    """Takes the whole body, and says how long it was; with a word for pages of any origin, as MONAI Label does."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    headers = [(b"Access-Control-Allow-Origin", b"*"), (b"access-control-allow-credentials", b"true")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def wrapping(scope: Any, receive: Any, send: Any) -> None:
    """Makes an answer of its own of whatever goes wrong with a body, as FastAPI does."""
    try:
        await everything(scope, receive, send)
    except Exception:
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"There was an error parsing the body"})


def asked(
    method: str = "GET",
    path: str = "/info/",
    query: str = "",
    headers: Mapping[str, str] = HOST,
    body: Sequence[bytes] = (b"",),
    stalls: bool = False,
    app: Any = everything,
    **options: Any,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and content of the answer to one request."""
    pieces, sent = list(body), []

    async def receive() -> dict[str, Any]:
        if stalls and not pieces:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces) or stalls}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode()}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(Guard(app, FEW, **options)(scope, receive, send))
    start, *rest = sent
    found = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return start["status"], found, b"".join(message["body"] for message in rest)


def test_what_is_right_passes() -> None:
    status, headers, content = asked("PUT", "/datastore/label", "image=sub-01_T1w&tag=final", body=(b"1234", b"567"))
    assert (status, content) == (200, b"7")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'self';")


@pytest.mark.parametrize(
    "value", ["../../x", "a/b", "/etc/passwd", "a\\b", "..", "a..b", ".hidden", "a%00b", "%2e%2e%2fx"]
)
@pytest.mark.parametrize("name", ["image", "id", "label", "model", "tag", "label_tag", "session_id"])
def test_70_an_id_that_is_a_path(name: str, value: str) -> None:
    status, _, content = asked("PUT", "/datastore/label", f"{name}={value}")
    assert status == 400
    assert name in content.decode()
    assert value not in content.decode()


@pytest.mark.parametrize("path", ["/infer/../../x", "/train/..", "/a\\..\\b", "/a\0b", "/proxy/other/studies"])
def test_70_a_path_that_climbs(path: str) -> None:
    assert asked(path=path)[0] == 400


def test_a_tag_is_a_folders_name() -> None:
    assert asked("PUT", "/datastore/label", "image=a&tag=version 2")[0] == 400
    assert asked("PUT", "/datastore/label", "image=a b&tag=version-2")[0] == 200


@pytest.mark.parametrize("query", ["uncompress=true", "uncompress=1", "expiry=5&uncompress=True"])
def test_71_archives_are_not_unpacked(query: str) -> None:
    assert asked("PUT", "/session/", query)[0] == 400
    assert asked("PUT", "/session/", "uncompress=false")[0] == 200


@pytest.mark.parametrize("app", [everything, wrapping])
def test_73_a_body_that_is_too_large(app: Any) -> None:
    """Whether it says so or not; ten bytes pass."""
    assert asked("PUT", body=(b"12345", b"67890"), app=app)[0] == 200
    assert asked("PUT", body=(b"12345", b"67890", b"1", b""), app=app)[0] == 413
    assert asked("PUT", headers={**HOST, "content-length": "11"}, app=app)[0] == 413
    assert asked("PUT", headers={**HOST, "content-length": "-1"}, app=app)[0] == 400


@pytest.mark.parametrize("app", [everything, wrapping])
def test_73_a_body_that_never_ends(app: Any) -> None:
    status, headers, _ = asked("PUT", body=(b"12",), stalls=True, app=app)
    assert (status, headers["connection"]) == (408, "close")


def test_74_too_many_inferences_wait_elsewhere() -> None:
    """Two at a time; the third is told to come back, another route is served, and later ones are served again."""

    async def run() -> tuple[list[int], list[int]]:
        gate, found, more = asyncio.Event(), [], []

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"].startswith("/infer"):
                await gate.wait()
            await everything(scope, receive, send)

        guard = Guard(slow, FEW)

        async def ask(path: str, into: list[int]) -> None:
            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": b""}

            async def send(message: dict[str, Any]) -> None:
                if "status" in message:
                    into.append(message["status"])

            scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"host", b"localhost")]}
            await guard(scope, receive, send)

        first = [asyncio.create_task(ask("/infer/tumour", found)) for _ in range(3)]
        await asyncio.sleep(0)
        await ask("/activelearning/first", more)
        gate.set()
        await asyncio.gather(*first)
        await ask("/infer/tumour", more)
        return found, more

    assert asyncio.run(run()) == ([429, 200, 200], [200, 200])


def test_74_one_that_fails_makes_room_again() -> None:
    async def run() -> None:
        async def failing(scope: Any, receive: Any, send: Any) -> None:
            raise ValueError("one bad case")

        guard = Guard(failing, Limits(inferences=1))
        scope = {"type": "http", "method": "POST", "path": "/infer/a", "headers": [(b"host", b"localhost")]}
        for _ in range(3):
            with pytest.raises(ValueError, match="one bad case"):
                await guard(scope, None, None)  # type: ignore[arg-type]

    asyncio.run(run())


@pytest.mark.parametrize(
    "rest",
    [
        "studies",
        "wado/studies/1.2.3/metadata",
        "qido/studies/1.2.3/series",
        "studies/1.2/series/3.4/instances/5.6/frames/1",
        "studies/1.2/series/3.4/instances/5.6/frames/1,2/rendered",
    ],
)
def test_75_what_a_viewer_reads(rest: str) -> None:
    assert asked(path=f"/proxy/dicom/{rest}")[0] == 200


@pytest.mark.parametrize(
    "rest",
    [
        "../system",
        "http://other/studies",
        "//other/studies",
        "studies/1.2/../../system",
        "tools/execute-script",
        "patients",
    ],
)
def test_75_what_it_does_not(rest: str) -> None:
    assert asked(path=f"/proxy/dicom/{rest}")[0] == 400


def test_75_the_archive_is_not_written() -> None:
    assert asked("POST", "/proxy/dicom/stow/studies")[0] == 405


def test_77_a_page_of_another_origin() -> None:
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9000"):
        assert asked("POST", "/infer/tumour", headers={**HOST, "origin": origin})[0] == 403
    status, headers, _ = asked(headers={**HOST, "origin": "http://127.0.0.1:8000"})
    assert status == 200
    assert not [name for name in headers if name.startswith("access-control")]


def test_77_a_picture_of_another_site() -> None:
    assert asked(headers={**HOST, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"})[0] == 403
    assert asked(headers={**HOST, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})[0] == 200
    assert asked(headers={**HOST, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"})[0] == 200


def test_an_origin_that_may() -> None:
    origin = "https://viewer.hospital"
    status, headers, _ = asked(headers={**HOST, "origin": origin}, origins=[origin])
    assert (status, headers["access-control-allow-origin"]) == (200, origin)


def test_another_name_of_this_machine() -> None:
    """A page may make a name of its own point here; then it is of the same origin."""
    assert asked(headers={"host": "evil.example:8000"})[0] == 421
    assert asked(headers={})[0] == 421
    assert asked(headers={"host": "label.hospital"}, hosts=["label.hospital"])[0] == 200


def test_the_viewer_may_start_its_workers() -> None:
    assert "worker-src 'self' blob:" in asked(path="/ohif/viewer")[1]["content-security-policy"]


def test_no_websockets() -> None:
    sent = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Guard(everything)({"type": "websocket", "path": "/"}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_first_lines_alone() -> None:
    assert refusal("GET", "/info/", "", HOST) is None
    found = refusal("GET", "/datastore/image", "image=DOE^JANE", HOST)
    assert found is not None
    assert (found.status, found.cause) == (400, "The value of image is no id.")


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        *(("PUT", path, "") for path in ("/datastore/image", "/datastore/", "/datastore/image/info", "/model/x")),
        *(("POST", path, "run_sync=true") for path in ("/train/x", "/batch/infer/x", "/scoring/")),
        ("POST", "/train/x", "run_sync=1"),
    ],
)
def test_what_would_stop_the_server_or_change_what_it_trusts(method: str, path: str, query: str) -> None:
    assert refusal(method, path, query, {"host": "localhost:8000"}) is not None


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [("POST", "/train/x", "run_sync=false"), ("POST", "/scoring/x", "run_sync=true"), ("GET", "/datastore/image", "")],
)
def test_what_does_not(method: str, path: str, query: str) -> None:
    assert refusal(method, path, query, {"host": "localhost:8000"}) is None
