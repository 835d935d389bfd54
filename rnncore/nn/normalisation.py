"""BatchNorm1d: features normalised over the rows of a batch."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore import functional
from rnncore.checks import number, real_dtype, size
from rnncore.nn.module import Module, Parameter, options_repr
from rnncore.tensor import as_tensor


class BatchNorm1d(Module):
    """Normalise each feature over all rows, then scale and shift it, as `torch.nn.BatchNorm1d`.

    Features are the last axis, (..., num_features), and rows all others, padding too; PyTorch has
    (N, C, L). While training the batch's own mean and biased variance normalise, and running ones
    are kept of the mean and the unbiased variance; in evaluation the running ones normalise.

    Source: Ioffe and Szegedy, "Batch normalization", 2015.

    Parameters
    ----------
    num_features : int
    eps : float, default 1e-5
    momentum : float or None, default 0.1
        Weight of the newest batch in the running statistics; None: the mean over all batches.
    affine : bool, default True
        Whether there are a weight and a bias.
    track_running_stats : bool, default True
        False: no running statistics, and evaluation normalises by the batch too.
    dtype : {"float32", "float64"}, default "float32"
    """

    def __init__(
        self,
        num_features,
        eps=1e-5,
        momentum=0.1,
        affine=True,
        track_running_stats=True,
        *,
        dtype="float32",
    ):
        super().__init__()
        self.num_features = size(num_features, "num_features")
        self.eps = number(eps, "eps", 0)
        self.momentum = None if momentum is None else number(momentum, "momentum", 0, 1)
        self.affine = bool(affine)
        self.track_running_stats = bool(track_running_stats)
        self.dtype = real_dtype(dtype)
        shape = (self.num_features,)
        self.weight = Parameter(np.ones(shape, self.dtype)) if affine else None
        self.bias = Parameter(np.zeros(shape, self.dtype)) if affine else None
        tracked = self.track_running_stats
        self.register_buffer("running_mean", np.zeros(shape, self.dtype) if tracked else None)
        self.register_buffer("running_var", np.ones(shape, self.dtype) if tracked else None)
        self.register_buffer("num_batches_tracked", np.array(0, np.int64) if tracked else None)

    def forward(self, x):
        """Apply it to (..., num_features); while training there must be two rows or more."""
        x = as_tensor(x, self.dtype, "input")
        if x.ndim < 2 or x.shape[-1] != self.num_features:
            raise ValueError(f"input has shape {x.shape}, expected (..., {self.num_features})")
        if not self.training and self.track_running_stats:
            return functional.batch_norm(
                x, self.weight, self.bias, self.eps, mean=self.running_mean, var=self.running_var
            )
        y, mean, var = functional.batch_norm(x, self.weight, self.bias, self.eps)
        if self.training and self.track_running_stats:
            self._track(mean, var, x.size // self.num_features)
        return y

    def _track(self, mean, var, rows):
        self.num_batches_tracked[...] += 1
        part = self.momentum
        if part is None:
            part = 1 / int(self.num_batches_tracked)
        with np.errstate(all="ignore"):  # NaN and infinity are data
            var = var * rows / (rows - 1)
            self.running_mean[...] = (1 - part) * self.running_mean + part * mean
            self.running_var[...] = (1 - part) * self.running_var + part * var

    def folded(self):
        """Scale and shift of each feature that evaluation comes down to.

        Returns
        -------
        scale, shift : arrays, shape (num_features,)
            Worked out in float64 and rounded to the module's dtype.
        """
        if not self.track_running_stats:
            raise ValueError(
                "track_running_stats is False: the output depends on the other rows of a batch"
            )
        return functional.batch_norm_folded(
            self.running_mean, self.running_var, self.weight, self.bias, self.eps
        )

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {
            "kind": "BatchNorm1d",
            "num_features": self.num_features,
            "eps": self.eps,
            "momentum": self.momentum,
            "affine": self.affine,
            "track_running_stats": self.track_running_stats,
            "dtype": self.dtype.name,
        }

    def extra_repr(self):
        """Options, as PyTorch prints them."""
        text = f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
        return f"{text}, {options_repr(self, (), affine=None, track_running_stats=None)}"
