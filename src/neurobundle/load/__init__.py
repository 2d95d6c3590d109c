"""From files to scans and cases. Imports no torch and no MONAI, but for the reader."""

from neurobundle.lazy import attach
from neurobundle.load.datalist import fold_items as fold_items
from neurobundle.load.datalist import read_datalist as read_datalist
from neurobundle.load.datalist import write_datalist as write_datalist
from neurobundle.load.inputs import find_images as find_images
from neurobundle.load.inputs import inference_items as inference_items
from neurobundle.load.labels import check_pair as check_pair
from neurobundle.load.layouts import find_pairs as find_pairs
from neurobundle.load.names import case_name as case_name
from neurobundle.load.names import find_label as find_label
from neurobundle.load.names import unique_case_names as unique_case_names
from neurobundle.load.pairs import FoundPairs as FoundPairs
from neurobundle.load.pairs import Pair as Pair
from neurobundle.load.scan import Scan as Scan
from neurobundle.load.scan import read_scan as read_scan

__getattr__, _ = attach(__name__, {"Reader": "reader"})
