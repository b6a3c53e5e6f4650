"""``python -m poolkeeper``: the same as the command ``poolkeeper``."""

import sys

from poolkeeper.cli.main import main

sys.exit(main())
