"""Writing that leaves either the whole file or the old one.

A file is written under a temporary name in its own directory, flushed to the disk, opened again and checked, and
only then renamed, so that nobody ever sees half of it under its final name.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neurobundle.errors import EnvironmentFault

#: Ends the name of a file that is being written.
SUFFIX = ".part"


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
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it what an ordinary new file gets.
        temporary.chmod(0o666 & ~_umask())
        if check is not None:
            check(temporary)
        temporary.replace(path)
    except OSError as error:
        raise _fault(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def require_writable(folder: Path) -> None:
    """Make a folder, and prove that a file can be written there.

    Args:
        folder: made if need be.

    Raises:
        EnvironmentFault: if it cannot be.
    """
    probe = folder / ".neurobundle-probe"
    try:
        write_atomic(probe, b"")
    except EnvironmentFault as error:
        error.file = str(folder)
        raise
    probe.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what a writer of this file left under temporary names when it was killed.

    Only for a file that one process alone writes; another writer's temporary file would be taken from under it.

    Args:
        path: the final name.
    """
    for litter in path.parent.glob(f".{path.name}.*{SUFFIX}"):
        litter.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> Path:
    """Write a value as indented JSON with a final newline, atomically.

    Args:
        path: the final name.
        value: anything that ``json`` can write; NaN is refused.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return write_atomic(path, f"{text}\n".encode())


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _fault(path: Path, error: OSError) -> EnvironmentFault:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return EnvironmentFault("the disk is full", "Free some space and run the command again.", file=path)
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        reason = "a file is in the place of a folder"
    return EnvironmentFault(
        f"cannot be written ({reason})", "Choose another output folder with -o, or mend this one.", file=path
    )
