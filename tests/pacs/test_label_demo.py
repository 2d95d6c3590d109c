"""``neurobundle label --demo``: the sample in an archive, served, and everything stopped again."""

from __future__ import annotations

import gzip
import json
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.label.orthanc import find_orthanc

from ..label.conftest import PAGE, free_port, served

pytestmark = pytest.mark.slow


def fetched(address: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(address, timeout=60) as answer:
        content = answer.read()
        # The proxy hands on what the archive packed.
        return int(answer.status), gzip.decompress(content) if answer.headers["Content-Encoding"] == "gzip" else content


def test_the_demo_serves_a_sample_and_stops_what_it_started(label_python: Path, tmp_path: Path) -> None:
    if find_orthanc() is None:
        pytest.skip("orthanc is not here: `make pacs` installs it")
    port = free_port()
    (command,) = re.findall(r"^\.venv-label/bin/(neurobundle label --demo)$", PAGE.read_text(), re.MULTILINE)
    (shown,) = re.findall(r"```text\n(Sample .*?)```", PAGE.read_text(), re.DOTALL)
    words = [str(label_python), "-m", *command.split(), "--port", str(port)]
    output = tmp_path / "output.txt"
    with served(words, tmp_path, {**os.environ, "OMP_NUM_THREADS": "1"}, port, output) as client:
        assert output.read_text().startswith(shown.replace(":8000", f":{port}"))
        assert set(client.info()["models"]) == {"brain_tumor_segmentation", "brain_anatomy_segmentation"}
        status, page = fetched(f"{client.address}/ohif/")
        assert status == 200
        assert b"OHIF" in page
        (study,) = json.loads(fetched(f"{client.address}/proxy/dicom/studies")[1])
        assert study["00100010"]["Value"][0]["Alphabetic"] == "Nobody^Sample"
        image = client.next_sample("first")["id"]
        mask, answer = client.infer("brain_tumor_segmentation", image, result_extension=".nii.gz", device="cpu")
        assert mask
        (tmp_path / "mask.nii.gz").write_bytes(mask)
        found = np.bincount(np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj).astype(int).ravel(), minlength=4)
        assert (found[1:] > 0).all(), "each part of the painted tumour"
        assert len(answer["study"]["chosen"]) == 4
        settings = json.loads((tmp_path / "label-demo" / "archive" / "orthanc.json").read_text())
    for _ in range(200):
        try:
            fetched(f"http://127.0.0.1:{settings['HttpPort']}/dicom-web/studies")
        except urllib.error.URLError:
            return
        time.sleep(0.1)
    raise AssertionError("the archive still answers")
