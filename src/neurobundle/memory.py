"""How much memory there is, how much a case took, and what exhausts it. Imports neither torch nor MONAI.

All figures are of resident memory. *Peak* is the most since :func:`reset_peak`, above what the process had when this
module was imported, which for a command of ours is before torch.
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

MIB = 2**20

_STATUS = Path("/proc/self/status")

#: cgroup v2 of the process's own container.
_CGROUP = Path("/sys/fs/cgroup")

#: What torch says, as a plain RuntimeError, when the CPU's memory is exhausted (c10/core/impl/alloc_cpu.cpp).
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|cannot allocate memory", re.IGNORECASE)


def _status(field: str) -> int:
    """A figure of /proc/self/status in bytes; 0 where there is none."""
    with contextlib.suppress(OSError):
        match = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        return int(match.group(1)) * 1024 if match else 0
    return 0


_AT_START = _status("VmRSS")


def resident_mib() -> float:
    """What the process holds now."""
    return _status("VmRSS") / MIB


def reset_peak() -> None:
    """Begin a new peak, where the system permits (Linux, proc(5): 5 in clear_refs resets VmHWM)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """The peak since :func:`reset_peak`, MiB above the process's start; elsewhere than on Linux since the start."""
    peak = _status("VmHWM")
    if not peak:
        with contextlib.suppress(ImportError):
            import resource

            # Kilobytes on Linux, bytes on macOS (getrusage(2) of each).
            unit = 1 if sys.platform == "darwin" else 1024
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return max(0, peak - _AT_START) / MIB


def available_bytes() -> int | None:
    """What this process can still get: of the machine, of its container and of ``ulimit -v``; None if unknown."""
    limits = []
    with contextlib.suppress(OSError):
        match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        limits += [int(match.group(1)) * 1024] if match else []
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        used = int((_CGROUP / "memory.current").read_text())
        reclaimable = re.search(r"^inactive_file (\d+)", (_CGROUP / "memory.stat").read_text(), re.MULTILINE)
        limit = int((_CGROUP / "memory.max").read_text())
        limits.append(limit - used + (int(reclaimable.group(1)) if reclaimable else 0))
    with contextlib.suppress(ImportError):
        import resource

        address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
        if address_space != resource.RLIM_INFINITY:
            limits.append(address_space - _status("VmSize"))
    return max(0, min(limits)) if limits else None


def is_exhaustion(error: BaseException) -> bool:
    """Whether an exception says that memory is exhausted: Python's, numpy's, or torch's on any device.

    >>> is_exhaustion(MemoryError()), is_exhaustion(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    (True, True)
    >>> is_exhaustion(RuntimeError("shapes differ"))
    False
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and bool(_NO_MEMORY.search(str(error)))
