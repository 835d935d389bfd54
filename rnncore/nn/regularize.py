"""Dropout."""
# SPDX-License-Identifier: Apache-2.0

from rnncore import functional
from rnncore.nn.module import Module


class Dropout(Module):
    """While training, set elements to zero with probability `p` and scale the others up.

    Parameters
    ----------
    p : float, default 0.5
    """

    def __init__(self, p=0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p is {p}, expected 0 to 1")
        self.p = float(p)

    def forward(self, x):
        """Apply it."""
        return functional.dropout(x, self.p, self.training)

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {"kind": "Dropout", "p": self.p}

    def extra_repr(self):
        """The probability."""
        return f"p={self.p}"
