"""`python -m neurobundle` is the `neurobundle` command."""

import sys

from neurobundle.cli import main

sys.exit(main())
