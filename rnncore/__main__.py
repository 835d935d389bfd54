"""`python -m rnncore`: the command line."""
# SPDX-License-Identifier: Apache-2.0

import sys

from rnncore.cli import main

sys.exit(main())
