"""Dropout."""
# SPDX-License-Identifier: Apache-2.0

from rnncore import functional
from rnncore.checks import number
from rnncore.nn.module import Module


class Dropout(Module):
    """While training, set elements to zero with probability `p` and scale the others up.

    Parameters
    ----------
    p : float, default 0.5
    """

    def __init__(self, p=0.5):
        super().__init__()
        self.p = number(p, "p", 0, 1)

    def forward(self, x):
        """Apply it."""
        return functional.dropout(x, self.p, self.training)

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {"kind": "Dropout", "p": self.p}

    def extra_repr(self):
        """The probability."""
        return f"p={self.p}"
