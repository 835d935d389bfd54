"""Model files, one format a module."""
# SPDX-License-Identifier: Apache-2.0
