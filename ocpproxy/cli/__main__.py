"""``python -m ocpproxy.cli``."""

import sys

from ocpproxy.cli.main import main

sys.exit(main())
