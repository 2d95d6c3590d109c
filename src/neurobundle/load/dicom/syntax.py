"""The transfer syntaxes whose pixels can be read, and what reads them.

A *transfer syntax* says how a DICOM file is encoded. A *native* one stores pixels as plain numbers, an *encapsulated*
one stores each frame as a compressed code stream. UIDs and their names: DICOM PS3.6 Annex A; encodings: PS3.5 Annex A.
Imports nothing.
"""

from __future__ import annotations

from typing import NamedTuple

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"

NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG})


class Compression(NamedTuple):
    """One way to compress frames.

    Attributes:
        name: what a person calls it.
        package: the module that decodes it: of python-gdcm, pylibjpeg-openjpeg, pylibjpeg-rle and pyjpegls.
        lossy: whether decoding gives other numbers than the scanner made: ``yes``, ``no``, or ``maybe`` where the
            syntax allows both and only the tag LossyImageCompression knows.
    """

    name: str
    package: str
    lossy: str = "no"


ENCAPSULATED = {
    RLE: Compression("RLE", "rle"),
    "1.2.840.10008.1.2.4.50": Compression("JPEG baseline", "gdcm", "yes"),
    "1.2.840.10008.1.2.4.51": Compression("JPEG extended", "gdcm", "yes"),
    "1.2.840.10008.1.2.4.57": Compression("JPEG lossless", "gdcm"),
    "1.2.840.10008.1.2.4.70": Compression("JPEG lossless", "gdcm"),
    "1.2.840.10008.1.2.4.80": Compression("JPEG-LS", "jpeg_ls"),
    "1.2.840.10008.1.2.4.81": Compression("JPEG-LS near-lossless", "jpeg_ls", "yes"),
    "1.2.840.10008.1.2.4.90": Compression("JPEG 2000", "openjpeg"),
    "1.2.840.10008.1.2.4.91": Compression("JPEG 2000", "openjpeg", "maybe"),
    "1.2.840.10008.1.2.4.201": Compression("High-Throughput JPEG 2000", "openjpeg"),
    "1.2.840.10008.1.2.4.202": Compression("High-Throughput JPEG 2000", "openjpeg"),
    "1.2.840.10008.1.2.4.203": Compression("High-Throughput JPEG 2000", "openjpeg", "maybe"),
}


def is_lossy(syntax: str, lossy_tag: str | None = None) -> bool:
    """Whether a file's pixels are not the numbers that the scanner made.

    Args:
        syntax: UID of the file's transfer syntax.
        lossy_tag: its LossyImageCompression (0028,2110): ``01`` if it ever was lossily compressed, also before it got
            the syntax it has now; ``00`` if never.

    >>> is_lossy("1.2.840.10008.1.2.4.70"), is_lossy("1.2.840.10008.1.2.4.50", "00"), is_lossy(RLE, "01")
    (False, True, True)
    >>> is_lossy("1.2.840.10008.1.2.4.91"), is_lossy("1.2.840.10008.1.2.4.91", "00")
    (True, False)
    """
    if lossy_tag == "01":
        return True
    lossy = ENCAPSULATED[syntax].lossy if syntax in ENCAPSULATED else "no"
    return lossy == "yes" or (lossy == "maybe" and lossy_tag != "00")
