"""The DICOMweb client against a server that was made here: what it fetches, and what archives do wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neurobundle.errors import EnvironmentFault, InputError, SettingError
from neurobundle.label.dicomweb import (
    FILTER,
    PASSWORD,
    PLAIN_HTTP,
    PREFIXES,
    STUDY_GIB,
    USERNAME,
    ArchiveFault,
    DicomWeb,
    Limits,
    Series,
    address_of,
    archive_of,
)
from neurobundle.label.multipart import parts_of

from ..load.dicom import make
from .dicomweb_server import Handler, Made, body_of, serving_files

ROOM = 1 << 30
ONE = Series(make.STUDY, make.SERIES, instances=6, date="20200229")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """A server of one series of six files."""
    files = make.series(tmp_path / "made", slices=6).files
    with serving_files(*files) as server:
        yield server


def say(status: int, kind: str = "text/plain", body: bytes = b"", **headers: str) -> Any:
    """A trick: one answer to all."""

    def trick(handler: Handler) -> bool:
        handler.answer(status, kind, body, **headers)
        return True

    return trick


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 1000])
def test_parts_however_the_body_is_cut(piece: int) -> None:
    """The parts are the same, whatever a read gives; a boundary's beginning within one is a part's own."""
    parts = [b"one\r\n--", b"", b"\r\n--y\r\n--", bytes(range(256))]
    body = io.BytesIO(b"preamble\r\n" + body_of(parts) + b"epilogue")
    assert [b"".join(part) for part in parts_of(lambda size: body.read(min(size, piece)), b"x")] == parts


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_body_that_ends_early(cut: int) -> None:
    """Wherever it ends before its last boundary, it is an error."""
    body = body_of([b"one"])
    stream = io.BytesIO(body[: len(body) - len(b"--\r\n") - cut])
    with pytest.raises(InputError, match="ended early"):
        [b"".join(part) for part in parts_of(stream.read, b"x")]


def test_a_head_without_end() -> None:
    stream = io.BytesIO(b"--x" + b"a" * (3 << 20))
    with pytest.raises(InputError, match="no multipart body"):
        list(parts_of(stream.read, b"x"))


def test_what_is_listed(made: Made) -> None:
    assert DicomWeb(made.address).series() == [ONE]
    assert made.asked[0].startswith("GET /series?Modality=MR&includefield=")
    assert "Authorization" not in made.headers


def test_a_list_in_pages(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven series, three a page; an archive that knows no pages gives the same ones again, and is asked twice."""
    made.files = {f"1.2.{n}": [b""] for n in range(7)}
    made.studies = dict.fromkeys(made.files, "1.2")
    monkeypatch.setattr("neurobundle.label.dicomweb._PAGE", 3)
    assert [one.uid for one in DicomWeb(made.address).series()] == list(made.files)
    assert len(made.asked) == 3

    def no_pages(handler: Handler) -> bool:
        handler.json(handler.listed({"offset": ["0"], "limit": ["5"]}))
        return True

    made.trick = no_pages
    made.asked.clear()
    assert len(DicomWeb(made.address).series()) == 5
    assert len(made.asked) == 2


def test_what_is_listed_and_is_no_series(made: Made) -> None:
    """An archive that lists what was not asked for, or what is no UID, which would be a path of ours."""
    uids = [("1.2", "../../x"), ("1.2/3", "1.2.3"), ("", "1.2.3"), ("1.2", "1.2.4")]
    rows = [{"0020000D": {"Value": [study]}, "0020000E": {"Value": [uid]}} for study, uid in uids]
    ct = {**rows[-1], "0020000E": {"Value": ["1.2.5"]}, "00080060": {"Value": ["CT"]}}
    made.trick = lambda handler: handler.json([*rows, ct, {}, {"0020000D": None, "0020000E": {"Value": 3}}]) or True
    assert DicomWeb(made.address).series() == [Series("1.2", "1.2.4")]


def test_a_series_byte_for_byte(made: Made, tmp_path: Path) -> None:
    """As it is stored, in files whose names say nothing."""
    size = DicomWeb(made.address).fetch(ONE, tmp_path / "got", ROOM)
    got = sorted((tmp_path / "got").iterdir())
    assert [path.name for path in got] == [f"{n:06d}.dcm" for n in range(6)]
    assert [path.read_bytes() for path in got] == made.files[make.SERIES]
    assert size == sum(map(len, made.files[make.SERIES]))
    assert made.headers["Accept"] == 'multipart/related; type="application/dicom"; transfer-syntax=*'


def test_user_and_password(made: Made) -> None:
    DicomWeb(made.address, "anna", "sésame").series()
    assert made.headers["Authorization"] == f"Basic {base64.b64encode('anna:sésame'.encode()).decode()}"
    assert "sésame" not in repr(DicomWeb(made.address, "anna", "sésame"))


def test_other_paths_and_a_filter(made: Made, tmp_path: Path) -> None:
    variables = {
        **{name: f"/{name}/" for name in PREFIXES.values()},
        FILTER: '{"Modality": "CT", "BodyPartExamined": "BRAIN"}',
    }
    archive = archive_of(made.address, variables)
    made.trick = lambda handler: handler.json([]) or True
    assert archive.series() == []
    archive.store(b"")
    with pytest.raises(InputError):
        archive.fetch(ONE, tmp_path, ROOM)
    assert made.asked[0].startswith("GET /MONAI_LABEL_QIDO_PREFIX/series?Modality=MR&BodyPartExamined=BRAIN&")
    assert made.asked[1] == "POST /MONAI_LABEL_STOW_PREFIX/studies"
    assert made.asked[2] == f"GET /MONAI_LABEL_WADO_PREFIX/studies/{make.STUDY}/series/{make.SERIES}"


@pytest.mark.parametrize(
    ("trick", "words"),
    [
        (say(401), "it wants a user and a password. Set MONAI_LABEL_DICOMWEB_USERNAME"),
        (say(403), "answers 403"),
        (say(302, Location="http://127.0.0.1:1/elsewhere"), "sends us elsewhere"),
        (say(404), "Orthanc's ends in /dicom-web"),
        (say(500), "answers 500"),
        (say(200, "text/html", b"<p>DOE^JANE"), "answers no list of series"),
        (say(200, "application/json", b'{"a": 1}'), "answers no list of series"),
        (say(200, "application/json", b"[1]"), "answers no list of series"),
        (lambda handler: handler.wfile.write(b"DOE^JANE\r\n\r\n") is not None, "cannot be reached"),
    ],
)
def test_an_archive_that_is_none(made: Made, trick: Any, words: str) -> None:
    """A sentence with its address and a way out, and nothing of what it said."""
    made.trick = trick
    with pytest.raises(ArchiveFault) as found:
        DicomWeb(made.address).series()
    assert words in str(found.value)
    assert made.address in str(found.value)
    assert "DOE" not in str(found.value)
    assert not [one for one in made.asked if "elsewhere" in one]


def test_an_archive_that_is_not_there() -> None:
    with pytest.raises(ArchiveFault, match=r"http://127\.0\.0\.1:1/x cannot be reached \(Connection refused\)"):
        DicomWeb("http://127.0.0.1:1/x").series()


def test_an_archive_that_says_nothing(made: Made) -> None:
    """It is waited for, not for ever."""

    def silent(handler: Handler) -> bool:
        handler.connection.recv(1)  # until the client has gone
        return True

    made.trick = silent
    with pytest.raises(ArchiveFault, match="cannot be reached"):
        DicomWeb(made.address, limits=Limits(idle_s=0.2)).series()


def test_a_list_without_end(made: Made) -> None:
    made.trick = say(200, "application/json", b"[" + b" " * (3 << 20) + b"]")
    with pytest.raises(ArchiveFault, match="larger than 2 MiB"):
        DicomWeb(made.address, limits=Limits(answer_bytes=2 << 20)).series()


@pytest.mark.parametrize(
    ("trick", "words"),
    [
        (say(404), "the archive has it no more"),
        (say(500, body=b"DOE^JANE"), "the archive answers 500 in its place"),
        (say(200, "text/html"), "answered text/html, and no DICOM"),
        (say(200, "multipart/related"), "and no DICOM"),
        (say(200, "multipart/related; boundary=x", body_of([b"a", b"b"])), "handed over 2 of 6 images"),
        (say(200, "multipart/related; boundary=x", body_of([b"a"])[:-6]), "ended early"),
        (say(200, "multipart/related; boundary=x", b"", Content_Length="9"), "ended early"),
    ],
)
def test_a_series_that_is_not_handed_over(made: Made, tmp_path: Path, trick: Any, words: str) -> None:
    made.trick = trick
    with pytest.raises(InputError) as found:
        DicomWeb(made.address).fetch(ONE, tmp_path / "got", ROOM)
    assert words in str(found.value)
    assert "DOE" not in str(found.value)


def test_a_connection_that_breaks(made: Made, tmp_path: Path) -> None:
    """In the middle of a body whose length was said, and of one in chunks."""
    whole = body_of(made.files[make.SERIES])

    def broken(handler: Handler) -> bool:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/related; boundary=x")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(f"{len(whole):x}\r\n".encode() + whole[:1000])
        handler.close_connection = True
        return True

    for trick in (broken, say(200, "multipart/related; boundary=x", whole[:1000], Content_Length=str(len(whole)))):
        made.trick = trick
        with pytest.raises(InputError, match=r"the archive's answer (broke off|ended early)"):
            DicomWeb(made.address).fetch(ONE, tmp_path / "got", ROOM)


def test_a_study_larger_than_there_is_room_for(made: Made, tmp_path: Path) -> None:
    room = sum(map(len, made.files[make.SERIES]))
    assert DicomWeb(made.address).fetch(ONE, tmp_path / "whole", room) == room
    with pytest.raises(InputError, match="larger than what is fetched of one study"):
        DicomWeb(made.address).fetch(ONE, tmp_path / "part", room - 1)
    assert sum(path.stat().st_size for path in (tmp_path / "part").iterdir()) < room


def test_the_disk_is_full(made: Made, tmp_path: Path) -> None:
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "000000.dcm").symlink_to("/dev/full")
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        DicomWeb(made.address).fetch(ONE, tmp_path / "got", ROOM)


def test_what_is_sent(made: Made) -> None:
    DicomWeb(made.address).store(b"DICM\r\n--")
    assert made.taken == [b"DICM\r\n--"]
    assert made.headers["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary=')


@pytest.mark.parametrize(
    ("trick", "words"),
    [
        (say(409, body=b"DOE^JANE"), "did not take the segmentation (it answers 409)"),
        (say(413), "(it answers 413)"),
        (
            lambda handler: handler.json({"00081198": {"Value": [{"00081197": {"Value": [0xA700]}}]}}, 202) or True,
            "(reason 0xa700)",
        ),
        (lambda handler: handler.json({"00081198": {"Value": [{}]}}) or True, "(no reason given)"),
    ],
)
def test_what_is_not_taken(made: Made, trick: Any, words: str) -> None:
    made.trick = trick
    with pytest.raises(InputError) as found:
        DicomWeb(made.address).store(b"DICM")
    assert words in str(found.value)
    assert "DOE" not in str(found.value)


def test_addresses() -> None:
    assert address_of("HTTPS://pacs.hospital:8443/dicom-web/", {}) == "https://pacs.hospital:8443/dicom-web"
    assert address_of("http://[::1]:8042/dicom-web", {}) == "http://[::1]:8042/dicom-web"
    assert address_of("http://localhost:8042", {}) == "http://localhost:8042"
    assert address_of("http://orthanc:8042/dicom-web", {PLAIN_HTTP: "pacs, orthanc"}).startswith("http://orthanc")
    for text in ("https://", "https://pacs/x?y=1", "https://pacs:port/x", "https://pacs/#x", "https://[pacs/"):
        with pytest.raises(SettingError, match="no address of an archive"):
            address_of(text, {})
    with pytest.raises(SettingError, match="in the clear"):
        address_of("http://orthanc:8042/dicom-web", {PLAIN_HTTP: "orthanc.hospital"})


def test_a_password_in_an_address() -> None:
    """It is refused, and not said again."""
    with pytest.raises(SettingError, match="a user in the address https://pacs/dicom-web") as found:
        address_of("https://anna:sesame@pacs/dicom-web", {})
    assert "sesame" not in str(found.value)
    assert "anna" not in str(found.value)


def test_what_stands_in_the_environment() -> None:
    archive = archive_of("https://pacs/x", {USERNAME: "anna", PASSWORD: "sesame", STUDY_GIB: "0.5"})
    assert (archive.user, archive.password, archive.limits.study_bytes) == ("anna", "sesame", 1 << 29)
    for variables in ({STUDY_GIB: "much"}, {STUDY_GIB: "inf"}, {FILTER: "BRAIN"}, {FILTER: "[1]"}):
        with pytest.raises(SettingError, match="Mend them"):
            archive_of("https://pacs/x", variables)
