"""Folders of studies that were fetched, private to a process: the last few, and those that are being read.

They hold what patients are called. A process removes its own when it ends; of one that was killed the next process
does, as far as the system can lock files.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # no POSIX: what a killed process left stays
    fcntl = None  # type: ignore[assignment]

#: So many studies stay fetched.
KEPT = 4

_PREFIX, _ALIVE = "neurobundle-studies-", "alive"


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for what shows a patient; what a killed process left of it goes with the next one."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    alive = _say_alive(folder)
    try:
        yield folder
    finally:
        _remove(folder, alive)


class FetchedStudies:
    """Folders of studies.

    Args:
        kept: so many stay, beside those that are being read.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self._folders: OrderedDict[str, Path] = OrderedDict()
        self._readers: dict[str, int] = defaultdict(int)
        self._lock, self._fetching = threading.Lock(), threading.Lock()
        _sweep()
        # Made for this user alone (mode 0700).
        self._root = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._end = weakref.finalize(self, _remove, self._root, _say_alive(self._root))

    @contextmanager
    def held(self, key: str, fetch: Callable[[Path], None]) -> Iterator[Path]:
        """Around the reading of a study's folder, which stays for as long.

        Args:
            key: of the study.
            fetch: fills the folder, if the study is not here; one study is fetched at a time.
        """
        folder = self._hold(key)
        if folder is None:
            with self._fetching:
                folder = self._hold(key) or self._new(key, fetch)
        try:
            yield folder
        finally:
            with self._lock:
                self._readers[key] -= 1
                self._drop()

    def close(self) -> None:
        """Remove all of them."""
        self._end()

    def _hold(self, key: str) -> Path | None:
        with self._lock:
            folder = self._folders.get(key)
            if folder is not None:
                self._folders.move_to_end(key)
                self._readers[key] += 1
            return folder

    def _new(self, key: str, fetch: Callable[[Path], None]) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self._root))
        try:
            fetch(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with self._lock:
            self._folders[key] = folder
            self._readers[key] += 1
            self._drop()
        return folder

    def _drop(self) -> None:
        """Remove the oldest folders that nobody reads, beyond those that are kept."""
        idle = [key for key in self._folders if not self._readers[key]]
        for key in idle[: max(0, len(self._folders) - self.kept)]:
            shutil.rmtree(self._folders.pop(key), ignore_errors=True)
            del self._readers[key]


def _say_alive(folder: Path) -> int | None:
    """Lock a file of a folder for as long as this process lives; it gets its name when it is locked."""
    if fcntl is None:
        return None
    handle = os.open(folder / f"{_ALIVE}.new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (folder / f"{_ALIVE}.new").rename(folder / _ALIVE)
    return handle


def _remove(folder: Path, alive: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if alive is not None:
        os.close(alive)


def _sweep() -> None:
    """Remove the folders of this user's processes that were killed."""
    if fcntl is None:
        return
    for alive in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_ALIVE}"):
        try:
            handle = os.open(alive, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(handle).st_uid == os.getuid():
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(alive.parent, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(handle)
