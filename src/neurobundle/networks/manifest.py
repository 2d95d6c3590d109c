"""The list of weights beside the weights: ``MANIFEST.sha256``.

An *entry* says of one weights file what its bytes must be (size and sha256), where it came from (*origin*) and which
weights it was trained from (*parent*). ``sha256sum -c MANIFEST.sha256`` reads the file too: what that program does
not know stands in comment lines, one JSON object each, above the line that it belongs to::

    # {"bytes": 102, "file": "model.pt", "origin": "released", "parent": "none"}
    <64 hex digits>  model.pt

A *pending* entry inside that object is what the file is about to become. It is written before the file is replaced
and removed afterwards, so that a writer killed between the two leaves weights that still verify.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from neurobundle.errors import WeightsError
from neurobundle.files import write_atomic

MANIFEST_NAME = "MANIFEST.sha256"

#: What an entry's origin may be; "unknown" is that of a plain line that somebody else's tool wrote.
ORIGINS = ("released", "trained-here", "unknown")

NO_PARENT = "none"

_HASH_CHUNK_BYTES = 1 << 20
_SHA256_DIGITS = 64


@dataclass(frozen=True)
class Entry:
    """One weights file as the manifest knows it.

    Args:
        file: its name, without a folder.
        sha256: 64 hex digits.
        origin: one of :data:`ORIGINS`.
        parent: the sha256 of the weights it was trained from, or ``none``.
        bytes: its size, or -1 if the manifest does not say.
        pending: what the file is about to become, while it is being replaced.
    """

    file: str
    sha256: str
    origin: str = "unknown"
    parent: str = NO_PARENT
    bytes: int = -1
    pending: Entry | None = None


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_manifest(models_dir: str | Path) -> dict[str, Entry]:
    """All entries of a folder's manifest, by file name; empty if there is no manifest.

    Raises:
        WeightsError: for a line that is no entry and no comment.
    """
    path = Path(models_dir) / MANIFEST_NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"the manifest cannot be read ({error})", "Restore it.", file=path) from error
    details: dict[str, dict] = {}
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines, start=1):
        if line.startswith("#"):
            details.update(_details(line))
        elif line.strip():
            digest, name = _sum_line(line, number, path)
            entries[name] = _entry(name, digest, details.get(name, {}))
    return entries


def write_entry(models_dir: str | Path, file: str, origin: str, parent: str | None = None) -> Entry:
    """List a file that is there already, or list it anew; the other entries stay.

    Args:
        models_dir: the folder of the file and of the manifest.
        file: the file's name.
        origin: one of :data:`ORIGINS`.
        parent: the sha256 of the weights it was trained from, or None.

    Raises:
        WeightsError: if the file is missing, or the origin or the parent is no such thing.
        EnvironmentFault: if the manifest cannot be written.
    """
    path = Path(models_dir) / file
    if not path.is_file():
        raise WeightsError("the weights file does not exist, so it cannot be listed", "Write it first.", file=path)
    entry = make_entry(path, origin, parent, name=file)
    _write(Path(models_dir), {**read_manifest(models_dir), file: entry})
    return entry


def remove(models_dir: str | Path, file: str) -> None:
    """Take a file away, if it is there, and its line.

    Args:
        models_dir: the folder of the file and of the manifest.
        file: the file's name.
    """
    (Path(models_dir) / file).unlink(missing_ok=True)
    entries = read_manifest(models_dir)
    if entries.pop(file, None) is not None:
        _write(Path(models_dir), entries)


def announce(models_dir: str | Path, entry: Entry) -> None:
    """Write down what a file is about to become; :func:`write_entry` afterwards makes it the file's own entry."""
    entries = read_manifest(models_dir)
    old = entries.get(entry.file)
    base = old or entry
    entries[entry.file] = Entry(base.file, base.sha256, base.origin, base.parent, base.bytes, pending=entry)
    _write(Path(models_dir), entries)


def make_entry(path: Path, origin: str, parent: str | None, *, name: str = "") -> Entry:
    """The entry of a file as it lies there, under its own name or under the one that it will get."""
    if origin not in ORIGINS:
        raise WeightsError(f"an origin must be one of {ORIGINS}, got {origin!r}", "Correct it.", file=path)
    parent = parent or NO_PARENT
    if parent != NO_PARENT and not _is_sha256(parent):
        raise WeightsError(f"a parent must be a sha256 or {NO_PARENT!r}, got {parent!r}", "Correct it.", file=path)
    return Entry(name or path.name, sha256_of(path), origin, parent, path.stat().st_size)


def verify(path: str | Path) -> Entry:
    """Check a weights file against the manifest beside it.

    Returns:
        The entry that it fits.

    Raises:
        WeightsError: if it is missing, empty, not listed, or its bytes are not the listed ones.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError("the weights file does not exist", "Train the bundle, or copy the weights there.", file=path)
    size = path.stat().st_size
    if size == 0:
        raise _damaged(path, "it is empty (0 bytes)")
    listed = read_manifest(path.parent).get(path.name)
    if listed is None:
        raise WeightsError(
            f"{path.name} is not listed in {MANIFEST_NAME} (its sha256 is {sha256_of(path)})",
            f"If you know where it comes from, append the line that `sha256sum {path.name}` prints to {MANIFEST_NAME}.",
            file=path,
        )
    digest = sha256_of(path)
    for entry in (listed, listed.pending):
        if entry is not None and entry.sha256 == digest:
            return entry
    if 0 <= listed.bytes != size:
        raise _damaged(path, f"{size} bytes instead of {listed.bytes}, sha256 {digest} instead of {listed.sha256}")
    raise _damaged(path, f"{size} bytes, sha256 {digest} instead of {listed.sha256}")


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"checkpoint {path.name} is damaged or was changed: {why}", "Copy the original weights there again.", file=path
    )


def _is_sha256(text: str) -> bool:
    return len(text) == _SHA256_DIGITS and set(text) <= set("0123456789abcdef")


def _details(line: str) -> dict[str, dict]:
    """What a comment line says about a file; nothing if it is a comment for people."""
    try:
        content = json.loads(line.lstrip("# "))
    except ValueError:
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("file"), str):
        return {}
    return {content["file"]: content}


def _sum_line(line: str, number: int, path: Path) -> tuple[str, str]:
    """The digest and the name of a line of sha256sum's (``*`` before the name is its binary mode)."""
    digest, _, name = line.partition(" ")
    name = name.lstrip(" *").strip()
    if not _is_sha256(digest.lower()) or not name or "/" in name or "\\" in name:
        raise WeightsError(
            f"line {number} of the manifest is not '<sha256>  <file name>': {line[:80]!r}",
            "Correct that line, or remove it.",
            file=path,
        )
    return digest.lower(), name


def _entry(name: str, digest: str, details: dict) -> Entry:
    pending = details.get("pending")
    return Entry(
        file=name,
        sha256=digest,
        origin=str(details.get("origin", "unknown")),
        parent=str(details.get("parent", NO_PARENT)),
        bytes=int(details.get("bytes", -1)),
        pending=_entry(name, str(pending.get("sha256", "")), pending) if isinstance(pending, dict) else None,
    )


def _as_details(entry: Entry) -> dict[str, object]:
    details: dict[str, object] = {
        "file": entry.file,
        "origin": entry.origin,
        "parent": entry.parent,
        "bytes": entry.bytes,
    }
    if entry.pending is not None:
        details["pending"] = {**_as_details(entry.pending), "sha256": entry.pending.sha256}
    return details


def _write(models_dir: Path, entries: dict[str, Entry]) -> None:
    """Replace the manifest at once."""
    lines = []
    for name in sorted(entries):
        lines += [
            "# " + json.dumps(_as_details(entries[name]), sort_keys=True),
            f"{entries[name].sha256}  {name}",
        ]
    write_atomic(models_dir / MANIFEST_NAME, ("\n".join(lines) + "\n").encode())
