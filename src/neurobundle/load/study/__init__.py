"""A study becomes channels: which scan is T1, T1c, T2 and FLAIR, by stated rules, and all of them on one grid.

Imports neither torch nor MONAI; SimpleITK only where a channel has to be resampled.
"""

from neurobundle.load.study.channels import CHANNELS as CHANNELS
from neurobundle.load.study.channels import channel_named as channel_named
from neurobundle.load.study.channels import channels_named as channels_named
from neurobundle.load.study.choices import Choice as Choice
from neurobundle.load.study.choices import Study as Study
from neurobundle.load.study.finding import find_studies as find_studies
from neurobundle.load.study.reading import Place as Place
from neurobundle.load.study.reading import Placement as Placement
from neurobundle.load.study.reading import StudyScan as StudyScan
from neurobundle.load.study.reading import read_study as read_study
