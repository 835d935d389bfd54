"""The race: rnncore and its peers side by side, in one run; `python -m bench --help`."""
# SPDX-License-Identifier: Apache-2.0
