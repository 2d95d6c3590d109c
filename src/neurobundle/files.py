"""Writing that leaves either the whole file or the old one, and a lock for what several processes write.

A file is written under a temporary name in its own directory, flushed to the disk, opened again and checked, and
only then renamed, so that nobody ever sees half of it under its final name. *Litter* is a temporary file whose writer
was killed. A writer keeps its temporary file locked (flock) for as long as it lives, so that litter can be told from
work in progress, whoever looks.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from neurobundle.errors import EnvironmentFault

try:
    import fcntl
except ImportError:  # no POSIX: one process a folder, and litter stays
    fcntl = None  # type: ignore[assignment]

#: Ends the name of a file that is being written.
SUFFIX = ".part"

#: What mkstemp puts between our prefix and our suffix.
_LITTER = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(SUFFIX)}")

#: Held while a folder's shared files are read, merged and written; it exists only as long as somebody holds it.
LOCK_NAME = ".neurobundle.lock"

#: A disk, a quota or a file-size limit that is used up.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomic(path: Path, content: bytes, check: Callable[[Path], None] | None = None) -> Path:
    """Write bytes to a file, whole or not at all.

    Args:
        path: the final name; its directory is made if need be.
        content: the bytes.
        check: opens the temporary file again and raises if it is not right.

    Returns:
        ``path``.

    Raises:
        EnvironmentFault: if the directory cannot be made or written, or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _claim(path)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            # mkstemp makes the file private; give it what an ordinary new file gets.
            temporary.chmod(0o666 & ~_umask())
            if check is not None:
                check(temporary)
            if fcntl is None:
                file.close()
            # Renamed while it is open, and so locked: nobody takes it for litter in between.
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise fault(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def require_writable(folder: Path) -> None:
    """Make a folder, and prove that a file can be made there; the file that proves it is litter if we are killed.

    Args:
        folder: made if need be.

    Raises:
        EnvironmentFault: if it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, probe = _claim(folder / "probe")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise fault(folder, error) from error
    os.close(handle)


def sweep(path: Path) -> None:
    """Remove what writers of this file left under temporary names when they were killed; living ones are left alone.

    Args:
        path: the final name.
    """
    for litter in path.parent.glob(f".{path.name}.*{SUFFIX}"):
        _remove_if_dead(litter)


def sweep_folder(folder: Path) -> int:
    """Remove the litter of all files of a folder, not of those below it.

    Returns:
        How many files were removed.
    """
    return sum(_remove_if_dead(path) for path in folder.glob(f".*{SUFFIX}") if _LITTER.fullmatch(path.name))


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder's lock: one holder at a time, among threads and processes; a killed holder lets go.

    Not to be nested. On a file system without locks it holds nobody off.

    Args:
        folder: made if need be.

    Raises:
        EnvironmentFault: if the lock's file cannot be made.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _open_locked(path)
    except OSError as error:
        raise fault(folder, error) from error
    try:
        yield
    finally:
        # Only the holder removes the file; who waits for it sees that it is gone, and makes the next one.
        path.unlink(missing_ok=True)
        os.close(handle)


def write_json(path: Path, value: Any) -> Path:
    """Write a value as indented JSON with a final newline, atomically.

    Args:
        path: the final name.
        value: anything that ``json`` can write; NaN is refused.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # A file name that is no valid UTF-8 reaches Python as lone surrogates; they are written as escapes.
    return write_atomic(path, f"{text}\n".encode(errors="backslashreplace"))


def fault(path: Path, error: OSError) -> EnvironmentFault:
    """What the system refused, as an error of ours."""
    if error.errno in FULL:
        return EnvironmentFault("the disk is full", "Free some space and run the command again.", file=path)
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        reason = "a file is in the place of a folder"
    return EnvironmentFault(
        f"cannot be written ({reason})", "Choose another output folder with -o, or mend this one.", file=path
    )


def _claim(path: Path) -> tuple[int, Path]:
    """A new temporary file beside a file, open and locked."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX)
        _lock(handle)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # somebody swept it away before it was locked


def _open_locked(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _lock(handle)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # the last holder removed it while we waited


def _lock(handle: int, wait: bool = True) -> bool:
    """Lock an open file; False if another one holds it, or if the file system knows no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _remove_if_dead(litter: Path) -> bool:
    try:
        handle = os.open(litter, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Its writer may have renamed it since, and another one may have made a new file of this name.
        if _lock(handle, wait=False) and os.path.samestat(os.fstat(handle), litter.stat()):
            litter.unlink()
            return True
    except FileNotFoundError:
        pass
    finally:
        os.close(handle)
    return False


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power failure, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
