"""Losses as modules."""
# SPDX-License-Identifier: Apache-2.0

from rnncore import functional
from rnncore.nn.module import Module


class CrossEntropyLoss(Module):
    """-log softmax(logits) at the target class, see `functional.cross_entropy`.

    Parameters
    ----------
    ignore_index : int, default -100
        Targets without loss and gradient.
    reduction : {"mean", "sum", "none"}, default "mean"
    """

    def __init__(self, *, ignore_index=-100, reduction="mean"):
        super().__init__()
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, logits, target):
        """Loss of logits (N, V) against classes (N,)."""
        return functional.cross_entropy(
            logits, target, ignore_index=self.ignore_index, reduction=self.reduction
        )


class MSELoss(Module):
    """(x - target)^2, see `functional.mse_loss`.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, default "mean"
    """

    def __init__(self, *, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, x, target):
        """Loss of x against a target of its shape."""
        return functional.mse_loss(x, target, reduction=self.reduction)
