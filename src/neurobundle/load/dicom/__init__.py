"""A folder of DICOM files: series, volumes, geometry, pixels. Imports neither torch nor MONAI.

A *series* is the instances that share a SeriesInstanceUID; it may be several *volumes*: echoes, magnitude and phase,
time points. Headers are read when a folder is searched, pixels when a volume is read.
"""

from neurobundle.load.dicom.facts import Facts as Facts
from neurobundle.load.dicom.folder import DicomFolder as DicomFolder
from neurobundle.load.dicom.folder import DicomStudy as DicomStudy
from neurobundle.load.dicom.folder import find_dicom as find_dicom
from neurobundle.load.dicom.folder import mixed_studies as mixed_studies
from neurobundle.load.dicom.folder import read_volume as read_volume
from neurobundle.load.dicom.folder import require_images as require_images
from neurobundle.load.dicom.frames import patient_in as patient_in
from neurobundle.load.dicom.volumes import DicomVolume as DicomVolume
from neurobundle.load.dicom.volumes import read_series_4d as read_series_4d
from neurobundle.load.dicom.volumes import time_series as time_series
