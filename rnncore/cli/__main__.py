"""`python -m rnncore.cli`: the command line."""
# SPDX-License-Identifier: Apache-2.0

import sys

from rnncore.cli.main import main

sys.exit(main())
