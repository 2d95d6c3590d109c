"""What two processes do to one store of labels, and what a label may be; run by a Python that has MONAI Label.

It takes a folder, prints one line of JSON, and is asserted on by test_datastore.py.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

SHAPE, AFFINE = (24, 30, 24), np.diag([1.5, 1.5, 1.5, 1])
NAMES = {"label_info": [{"name": "Posterior", "idx": 1}, {"name": "Anterior", "idx": 2}]}
NRRD = """NRRD0004
type: uint8
dimension: 3
space: left-posterior-superior
sizes: {sizes}
space directions: (-1.5,0,0) (0,-1.5,0) (0,0,1.5)
space origin: (0,0,0)
kinds: domain domain domain
encoding: raw
{more}
"""


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def main(folder: Path) -> dict[str, Any]:
    from monailabel.interfaces.exception import MONAILabelException

    from neurobundle.label.app.datastore import StudyDatastore
    from neurobundle.label.app.tasks import Uncertain
    from neurobundle.label.app.training import final_label
    from neurobundle.label.studies import StudyStore

    random = np.random.default_rng(0)
    for name in ("anna", "bert", "carl"):
        write(folder / "studies" / f"{name}.nii.gz", random.integers(1, 900, SHAPE).astype(np.int16))
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[5:9, 5:9, 5:9], drawn[12:16, 12:16, 5:9] = 1, 2
    label = str(write(folder / "drawn.nii.gz", drawn))

    def opened() -> StudyDatastore:
        return StudyDatastore(StudyStore(folder / "store", None, [folder / "studies"]))

    def refused(image: str, file: str, info: dict[str, Any]) -> str:
        try:
            server.save_label(image, file, "final", info)
        except MONAILabelException as error:
            return str(error.msg)
        return "taken"

    server = opened()
    server.save_label("anna", label, "final", dict(NAMES))
    scoring = opened()
    server.save_label("bert", label, "final", dict(NAMES))
    scoring.update_label_info("anna", "final", {"agreement": 1})
    scoring.update_image_info("carl", {"case_score": {"b": 0.5}})
    server.update_image_info("anna", {"answered_by": "b"})
    found: dict[str, Any] = {"two processes": [final_label(server, image).names for image in ("anna", "bert")]}
    found["score"] = opened().get_image_info("carl").get("case_score")

    server.save_label("carl", label, "final", dict(NAMES))
    study = folder / "studies" / "carl.nii.gz"
    content = study.read_bytes()
    study.write_bytes(content[:500])
    server.refresh()
    found["away"] = server.list_images()
    study.write_bytes(content)
    server.refresh()
    found["back"] = final_label(server, "carl").names

    infos: list[Any] = [5, [{"name": "x", "idx": "one"}], ["idx name"], [{"name": "x", "idx": 10**13}]]
    found["names"] = [refused("carl", label, {"label_info": info}) for info in infos]
    (folder / "secret").write_bytes(b"PATIENT" * 4000)
    nrrd = folder / "sent.nrrd"
    found["nrrd"] = []
    for sizes, more in (("24 30 24", f"data file: {folder / 'secret'}\n"), ("9000 9000 9000", "")):
        nrrd.write_text(NRRD.format(sizes=sizes, more=more))
        found["nrrd"].append(refused("anna", str(nrrd), {}))
    sitk.WriteImage(sitk.ReadImage(label), str(nrrd), useCompression=True)
    found["good nrrd"] = refused("anna", str(nrrd), dict(NAMES))
    found["kept"] = bool((np.asarray(nib.load(server.get_label_uri("anna", "final")).dataobj) == drawn).all())
    found["next"] = Uncertain()({}, server)
    return found


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    said = main(Path(sys.argv[1]))
    sys.stdout.write(f"{json.dumps(said)}\n")
