"""What the app needs of an archive that speaks DICOMweb (PS3.18): to list (QIDO), to fetch (WADO), to send (STOW).

The *address* is that of an archive's DICOMweb services, as ``https://pacs.hospital/dicom-web``; it never holds a
password. A *part* is one instance of a series as it comes. Parts go to the disk piece by piece, and are counted; what
ends early, or is none, is an error. Why no package does it: docs/decisions/0011-a-dicomweb-client-of-our-own.md.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import re
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from neurobundle.errors import EnvironmentFault, InputError, SettingError
from neurobundle.files import fault
from neurobundle.label.multipart import PIECE, not_handed_over, parts_of

#: MONAI Label's own settings, which its proxy uses too.
USERNAME, PASSWORD = "MONAI_LABEL_DICOMWEB_USERNAME", "MONAI_LABEL_DICOMWEB_PASSWORD"
PREFIXES = {name: f"MONAI_LABEL_{name.upper()}_PREFIX" for name in ("qido", "wado", "stow")}
FILTER = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER"
#: Hosts, with commas between them, to which studies may travel in the clear.
PLAIN_HTTP = "NEUROBUNDLE_LABEL_PLAIN_HTTP"
#: The largest study that is fetched.
STUDY_GIB = "NEUROBUNDLE_LABEL_STUDY_GIB"

_MULTIPART, _DICOM, _JSON = "multipart/related", "application/dicom", "application/dicom+json"
#: As they are stored, of whatever transfer syntax; an archive that does not know the asterisk may choose.
_AS_STORED = f'{_MULTIPART}; type="{_DICOM}"; transfer-syntax=*'

#: PS3.6 by tag: what is read of a listed series.
_STUDY, _SERIES, _MODALITY, _INSTANCES = "0020000D", "0020000E", "00080060", "00201209"
_DATE, _TIME = "00080020", "00080030"
_FAILED, _REASON = "00081198", "00081197"
#: PS3.5 9.1.
_UID = re.compile(r"[0-9.]{1,64}")

_PAGE, _MOST_PAGES = 1000, 1000


class ArchiveFault(EnvironmentFault):
    """An archive that cannot be used at all: it is not reached, refuses us, or is none."""


class Series(NamedTuple):
    """A series as an archive lists it.

    Attributes:
        study: its StudyInstanceUID.
        uid: its SeriesInstanceUID.
        modality: as ``MR``.
        instances: how many files it has; None if the archive does not say.
        date: of the study, as DICOM writes it; empty if it is not listed.
        time: likewise.
    """

    study: str
    uid: str
    modality: str = "MR"
    instances: int | None = None
    date: str = ""
    time: str = ""


@dataclass(frozen=True)
class Limits:
    """What is taken from an archive.

    Attributes:
        study_bytes: of one study, on the disk.
        answer_bytes: of a list, in memory.
        idle_s: seconds that an answer, or the next piece of one, may take.
    """

    study_bytes: int = 4 << 30
    answer_bytes: int = 64 << 20
    idle_s: float = 60.0


@dataclass(frozen=True)
class DicomWeb:
    """An archive.

    Attributes:
        address: as :func:`address_of` gives it.
        user: its name there; empty if none is asked for.
        password: likewise.
        prefixes: of ``qido``, ``wado`` and ``stow``, where these lie below the address.
        search: what else a listed series must match, by keyword.
        limits: what is taken from it.
    """

    address: str
    user: str = ""
    password: str = field(default="", repr=False)
    prefixes: Mapping[str, str] = field(default_factory=dict)
    search: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def reach(self) -> None:
        """Ask for a list of one.

        Raises:
            ArchiveFault: if the archive cannot be used.
        """
        self._list("series?Modality=MR&limit=1")

    def series(self) -> list[Series]:
        """The MR series of all studies, a page after the other.

        Raises:
            ArchiveFault: if they cannot be listed.
        """
        # MONAI Label puts its own filter, CT, into the environment of its server.
        query = {**self.search, "Modality": "MR", "includefield": "StudyDate,StudyTime,NumberOfSeriesRelatedInstances"}
        found: dict[tuple[str, str], Series] = {}
        for page in range(_MOST_PAGES):
            words = urllib.parse.urlencode({**query, "limit": _PAGE, "offset": page * _PAGE}, safe=",*")
            listed = self._list(f"series?{words}")
            known = len(found)
            found |= {(one.study, one.uid): one for one in map(_series, listed) if one is not None}
            # An archive that knows no pages gives the first one again.
            if len(listed) < _PAGE or len(found) == known:
                break
        return sorted(found.values())

    def fetch(self, series: Series, folder: Path, room: int) -> int:
        """Write the files of a series into a folder, as they are stored.

        Args:
            series: as it was listed.
            folder: made if need be; gets a file an instance, whose name says nothing.
            room: so many bytes may come.

        Returns:
            How many came.

        Raises:
            InputError: if the archive does not hand it over, it ends early, or is larger than there is room for.
            ArchiveFault: if the archive cannot be used.
            EnvironmentFault: if the disk is full.
        """
        path = f"studies/{series.study}/series/{series.uid}"
        with self._answer("wado", path, _AS_STORED) as answer:
            boundary = answer.headers.get_param("boundary")
            if answer.headers.get_content_type() != _MULTIPART or not isinstance(boundary, str):
                raise not_handed_over(f"the archive answered {answer.headers.get_content_type()}, and no DICOM")
            folder.mkdir(parents=True, exist_ok=True)
            files, size = _write_parts(parts_of(_reader(answer), boundary.encode("latin-1")), folder, room)
        if series.instances is not None and files < series.instances:
            raise not_handed_over(f"the archive handed over {files} of {series.instances} images of a series")
        return size

    def store(self, content: bytes) -> None:
        """Send a file.

        Raises:
            InputError: if the archive does not take it.
            ArchiveFault: if the archive cannot be used.
        """
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: {_DICOM}\r\n\r\n".encode()
        body = b"".join((head, content, f"\r\n--{boundary}--\r\n".encode()))
        kind = f'{_MULTIPART}; type="{_DICOM}"; boundary={boundary}'
        with self._answer("stow", "studies", _JSON, body, kind) as answer:
            said = _read_all(answer, self.limits.answer_bytes)
            if answer.headers.get_content_type() not in (_JSON, "application/json"):
                return
        failed = _values(_decoded(said), _FAILED)
        if failed:
            reason = _values(failed[0], _REASON)
            raise _not_taken(f"reason {reason[0]:#06x}" if reason and isinstance(reason[0], int) else "no reason given")

    def ask(self, service: str, path: str, accept: str) -> Any:
        """What the archive answers to a viewer, as it is, to be read piece by piece and closed.

        Args:
            service: ``qido`` or ``wado``.
            path: of a resource, with its query.
            accept: which kinds the viewer takes.

        Raises:
            ArchiveFault: if the archive cannot be used, or has no answer.
            InputError: if it has no such thing.
        """
        return self._answer(service, path, accept)

    def _list(self, path: str) -> list[dict[str, Any]]:
        with self._answer("qido", path, _JSON) as answer:
            try:
                content = _read_all(answer, self.limits.answer_bytes)
            except InputError as error:
                raise self._fault(f"gives no list of its series: {error.cause}", error.way_out) from None
        listed = _decoded(content) if content.strip() else []
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise self._fault("answers no list of series", "Check --studies: it is the address of DICOMweb itself.")
        return listed

    def _answer(self, service: str, path: str, accept: str, body: bytes | None = None, kind: str = "") -> Any:
        """An answer to be read, whatever its kind."""
        prefix = self.prefixes.get(service, "").strip("/")
        headers = {"Accept": accept, **({"Content-Type": kind} if kind else {})}
        if self.user:
            word = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            headers["Authorization"] = f"Basic {word}"
        request = urllib.request.Request("/".join(filter(None, (self.address, prefix, path))), body, headers)
        try:
            return _OPENER.open(request, timeout=self.limits.idle_s)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refused(service, error.code) from None
        except (OSError, http.client.HTTPException) as error:
            # What lies below may quote the address with what was asked for.
            reason = getattr(error, "reason", error)
            why = getattr(reason, "strerror", None) or type(reason).__name__
            raise self._fault(f"cannot be reached ({why})", "Is it running, and is the address right?") from None

    def _refused(self, service: str, status: int) -> Exception:
        if status in (401, 403):
            who = f"the user {self.user!r} is refused" if self.user else "it wants a user and a password"
            return self._fault(f"answers {status}: {who}", f"Set {USERNAME} and {PASSWORD}.")
        if 300 <= status < 400:
            return self._fault(f"sends us elsewhere ({status})", "Give the address that it sends to, if it is its own.")
        if service == "qido":
            way_out = "Check --studies: it is the address of DICOMweb itself; Orthanc's ends in /dicom-web."
            return self._fault(f"answers {status} where its series should be listed", way_out)
        if service == "stow":
            return _not_taken(f"it answers {status}")
        return not_handed_over(
            "the archive has it no more" if status in (404, 410) else f"the archive answers {status} in its place"
        )

    def _fault(self, cause: str, way_out: str) -> ArchiveFault:
        return ArchiveFault(f"the archive at {self.address} {cause}", way_out)


def is_address(text: str) -> bool:
    """Whether a text is an address, and no folder.

    >>> is_address("HTTPS://pacs.hospital/dicom-web"), is_address("studies"), is_address("file:///studies")
    (True, False, False)
    """
    return re.match(r"https?://", text, re.IGNORECASE) is not None


def address_of(text: str, environment: Mapping[str, str]) -> str:
    """An archive's address as it may be used and spoken of.

    Args:
        text: as the user gave it.
        environment: variables; :data:`PLAIN_HTTP` names hosts that are reached in the clear.

    Raises:
        SettingError: if it is none, or holds a password, or patients' data would travel in the clear.

    >>> address_of("https://pacs.hospital/dicom-web/", {})
    'https://pacs.hospital/dicom-web'
    """
    try:
        parts = urllib.parse.urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.query or parts.fragment:
        raise SettingError("--studies is no address of an archive", "As https://pacs.hospital/dicom-web.")
    name = f"[{host}]" if ":" in host else host
    address = f"{parts.scheme}://{name}{f':{port}' if port is not None else ''}{parts.path.rstrip('/')}"
    if parts.username is not None or parts.password is not None:
        cause = f"a user in the address {address} would stand in logs, and where every process is listed"
        raise SettingError(cause, f"Set {USERNAME} and {PASSWORD}, and leave it out of the address.")
    if parts.scheme == "http" and not is_loopback(host) and host not in _words(environment.get(PLAIN_HTTP, "")):
        cause = f"to {address} patients' data would travel in the clear"
        raise SettingError(cause, f"Use https, or name the host in {PLAIN_HTTP} where the network is trusted.")
    return address


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("pacs")
    (True, True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def archive_of(text: str, environment: Mapping[str, str]) -> DicomWeb:
    """The archive at an address, with the user, prefixes, filter and limit that stand in the environment.

    Args:
        text: the address.
        environment: variables.

    Raises:
        SettingError: for an address or a variable that is none.
    """
    address = address_of(text, environment)
    prefixes = {name: environment[variable] for name, variable in PREFIXES.items() if environment.get(variable)}
    try:
        search = {str(name): str(value) for name, value in json.loads(environment.get(FILTER) or "{}").items()}
        limits = Limits(study_bytes=int(float(environment.get(STUDY_GIB) or 4) * (1 << 30)))
    except (ValueError, AttributeError, OverflowError) as error:
        cause = f"{FILTER} is JSON of keywords and values, {STUDY_GIB} a number"
        raise SettingError(cause, "Mend them, or leave them out.") from error
    user, password = environment.get(USERNAME, ""), environment.get(PASSWORD, "")
    return DicomWeb(address, user, password, prefixes, search, limits)


def _write_parts(parts: Iterator[Iterator[bytes]], folder: Path, room: int) -> tuple[int, int]:
    """How many files were written, and how many bytes."""
    files = size = 0
    for part in parts:
        path = folder / f"{files:06d}.dcm"
        try:
            with path.open("wb") as file:
                for piece in part:
                    size += len(piece)
                    if size > room:
                        raise _too_large()
                    file.write(piece)
        except OSError as error:
            raise fault(path, error) from error
        files += 1
    return files, size


def _too_large() -> InputError:
    return InputError("it is larger than what is fetched of one study", f"Allow more with {STUDY_GIB}.")


def _reader(answer: Any) -> Callable[[int], bytes]:
    """The body of an answer, whose end, too early, is an error of ours."""

    def read(size: int) -> bytes:
        try:
            return bytes(answer.read(size))
        except (OSError, http.client.HTTPException) as error:
            raise not_handed_over(f"the archive's answer broke off ({type(error).__name__})") from None

    return read


def _read_all(answer: Any, most: int) -> bytes:
    read, content = _reader(answer), b""
    while piece := read(PIECE):
        content += piece
        if len(content) > most:
            raise not_handed_over(f"the archive's answer is larger than {most >> 20} MiB")
    return content


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _values(dataset: Any, tag: str) -> list[Any]:
    """The values of an element of DICOM's JSON (PS3.18 F.2); none if it is not there, or is no such element."""
    element = dataset.get(tag) if isinstance(dataset, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _series(listed: dict[str, Any]) -> Series | None:
    study, uid, modality, date, time = (
        str(next(iter(_values(listed, tag)), "")) for tag in (_STUDY, _SERIES, _MODALITY, _DATE, _TIME)
    )
    # What is no UID is no part of an address either; some archives list other modalities than they were asked for.
    if not _UID.fullmatch(study) or not _UID.fullmatch(uid) or modality not in ("MR", ""):
        return None
    count = str(next(iter(_values(listed, _INSTANCES)), ""))
    return Series(study, uid, modality or "MR", int(count) if count.isdecimal() else None, date, time)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _not_taken(why: str) -> InputError:
    return InputError(f"the archive did not take the segmentation ({why})", "Look into the archive's log.")


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows nobody elsewhere, who would get the password and say what a patient's images are."""

    def redirect_request(self, *_: Any) -> None:
        """None: the redirection is the answer."""
        return


_OPENER = urllib.request.build_opener(_StayHere)
