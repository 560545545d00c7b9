"""`python -m bitgaze.cli`."""

import sys

from bitgaze.cli.main import main

sys.exit(main())
