"""``python -m fuseline.cli`` is the ``fuseline`` command, where that is not on the path."""

import sys

from fuseline.cli import main

sys.exit(main())
