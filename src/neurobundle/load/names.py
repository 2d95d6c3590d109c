"""Names of cases, and which file belongs to which.

A *stem* is a file's name without its ending (``.nii``, ``.nii.gz``, ``.png``, ``.jpg``). A *case name* is a stem made
safe for a file name on any system. A *label stem* is a stem that may end in ``_seg``.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from neurobundle.types import NIFTI_SUFFIXES

#: What ends the name of a picture that a 2D bundle reads.
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")

#: All endings that a case's name does without; the longest first.
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, *PICTURE_SUFFIXES)

#: What ours and others put behind a case's name for its label map.
LABEL_SUFFIX = "_seg"

#: Longest case name. File systems allow 255 bytes (POSIX NAME_MAX); the rest is for ``<parent>-`` and ``_seg.nii.gz``.
LONGEST_NAME = 120

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def is_image_name(name: str) -> bool:
    """Whether a file name has an ending of ours and is not hidden (``.DS_Store``, ``._x.nii`` of macOS).

    >>> is_image_name("anna.nii.gz"), is_image_name("._anna.nii.gz"), is_image_name("notes.txt")
    (True, False, False)
    """
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def is_nifti_name(name: str) -> bool:
    """Whether a file name ends in ``.nii`` or ``.nii.gz``.

    >>> is_nifti_name("anna.NII.gz"), is_nifti_name("anna.png")
    (True, False)
    """
    return name.lower().endswith(NIFTI_SUFFIXES)


def is_picture_name(name: str) -> bool:
    """Whether a file name ends in ``.png``, ``.jpg`` or ``.jpeg``.

    >>> is_picture_name("0001.PNG"), is_picture_name("0001.nii.gz")
    (True, False)
    """
    return name.lower().endswith(PICTURE_SUFFIXES)


def stem(name: str) -> str:
    """A file name without its ending, if that is one of ours.

    >>> stem("anna.nii.gz"), stem("0001.PNG"), stem("v1.2")
    ('anna', '0001', 'v1.2')
    """
    lower = name.lower()
    return next((name[: -len(end)] for end in IMAGE_SUFFIXES if lower.endswith(end)), name)


def words_of(text: str) -> list[str]:
    """The words of a name in lower case, parted by whatever is no letter and no digit.

    >>> words_of("sub-01_T1w"), words_of("training_seg_05")
    (['sub', '01', 't1w'], ['training', 'seg', '05'])
    """
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]


def safe_name(text: str) -> str:
    r"""Any text as a name of letters, digits, ``.``, ``_`` and ``-``, always the same for the same text.

    In this order: accents are dropped (``é`` is ``e``, by Unicode NFKD); every run of other characters (space, newline,
    slash, other scripts) becomes one ``_``; a run of dots becomes one, so that ``..`` cannot climb; ``.``, ``-`` and
    the ``_`` just made are taken off both ends. If nothing is left, or the name is longer than 120, it is told apart by
    eight hex digits of the text's sha256.

    >>> safe_name("Zoë  scan\n1"), safe_name("../../etc"), safe_name("_a_")
    ('Zoe_scan_1', 'etc', '_a_')
    >>> safe_name("日本")
    'case-cf2abf0c'
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    # A space stands for what was replaced until the ends are clean, so that an underscore of the user's own stays.
    spaced = re.sub(r"\.{2,}", ".", _UNSAFE.sub(" ", plain))
    name = spaced.strip(" .-").replace(" ", "_")
    if not name:
        return f"case-{_digest(text)}"
    if len(name) > LONGEST_NAME:
        return f"{name[: LONGEST_NAME - 9]}-{_digest(text)}"
    return name


def case_name(path: str | Path) -> str:
    """The case that a file, or a folder with one study, is called by.

    Args:
        path: a file (its ending is dropped) or an existing folder (its whole name counts).

    >>> case_name("in/hippocampus_025.nii.gz"), case_name("in/my scan.nii")
    ('hippocampus_025', 'my_scan')
    """
    path = Path(path)
    return safe_name(path.name if path.is_dir() else stem(path.name))


def unique_case_names(paths: Iterable[str | Path]) -> dict[Path, str]:
    """A case name for each path, no two alike, not even on a file system that ignores case.

    Names that collide become ``<parent>-<name>``, all of them; if they still collide, more parents go in front, and in
    the end (``a.nii`` beside ``a.nii.gz``) eight hex digits of the path's sha256 go behind. The answer does not depend
    on the order of the paths.

    >>> list(unique_case_names(["x/t1.nii", "y/t1.nii", "y/t2.nii"]).values())
    ['x-t1', 'y-t1', 't2']
    """
    wanted = list(dict.fromkeys(Path(path) for path in paths))
    plain = {path: case_name(path) for path in wanted}
    depth = dict.fromkeys(wanted, 0)
    names = dict(plain)
    for _ in range(1 + max((len(path.parts) for path in wanted), default=0)):
        count = Counter(name.casefold() for name in names.values())
        clashing = [path for path in wanted if count[names[path].casefold()] > 1]
        if not clashing:
            break
        for path in clashing:
            depth[path] += 1
            names[path] = _deeper(path, plain[path], depth[path])
    return names


def without_label_suffix(name: str) -> str:
    """A label's stem without ``_seg``.

    >>> without_label_suffix("anna_seg"), without_label_suffix("anna"), without_label_suffix("_seg")
    ('anna', 'anna', '_seg')
    """
    return name.removesuffix(LABEL_SUFFIX) or name


def find_label(folder: str | Path, case: str) -> Path | None:
    """The label map of a case in a flat or nested folder, or None.

    Accepted, in this order: ``<case>``, ``<case>_seg``, ``<case>/<case>_seg``, ``<case>/<case>``, each with any
    ending of ours.
    """
    folder = Path(folder)
    for place in (case, f"{case}{LABEL_SUFFIX}", f"{case}/{case}{LABEL_SUFFIX}", f"{case}/{case}"):
        for end in IMAGE_SUFFIXES:
            candidate = folder / f"{place}{end}"
            if candidate.is_file():
                return candidate
    return None


def _deeper(path: Path, name: str, depth: int) -> str:
    parents = [part for part in path.parent.parts if part not in ("/", ".", "..")]
    if depth > len(parents):
        return f"{safe_name('-'.join([*parents[-1:], name]))}-{_digest(str(path))}"
    return safe_name("-".join([*parents[-depth:], name]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
