"""Linear, Embedding and LayerNorm."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore import functional, random
from rnncore.checks import number, real_dtype, size
from rnncore.nn.module import Module, Parameter, options_repr
from rnncore.tensor import as_tensor


class Linear(Module):
    """Y = x W^T + b over the last axis, as `torch.nn.Linear`.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool, default True
    dtype : {"float32", "float64"}, default "float32"
    """

    def __init__(self, in_features, out_features, bias=True, *, dtype="float32"):
        super().__init__()
        self.in_features = size(in_features, "in_features", 0)
        self.out_features = size(out_features, "out_features")
        self.dtype = real_dtype(dtype)
        bound = 1 / np.sqrt(max(self.in_features, 1))
        draw = random.generator().uniform
        shape = (self.out_features, self.in_features)
        self.weight = Parameter(draw(-bound, bound, shape).astype(self.dtype))
        self.bias = (
            Parameter(draw(-bound, bound, self.out_features).astype(self.dtype)) if bias else None
        )

    def forward(self, x):
        """Apply it to (..., in_features)."""
        return functional.linear(x, self.weight, self.bias)

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {
            "kind": "Linear",
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
            "dtype": self.dtype.name,
        }

    def extra_repr(self):
        """Sizes, and whether there is a bias."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Embedding(Module):
    """A table of vectors, one an integer, as `torch.nn.Embedding`.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
    padding_idx : int, optional
        Row that starts as zeros and gets no gradient; negative counts from the end.
    dtype : {"float32", "float64"}, default "float32"
    """

    def __init__(self, num_embeddings, embedding_dim, padding_idx=None, *, dtype="float32"):
        super().__init__()
        self.num_embeddings = size(num_embeddings, "num_embeddings")
        self.embedding_dim = size(embedding_dim, "embedding_dim")
        if padding_idx is not None:
            padding_idx = size(padding_idx, "padding_idx", -self.num_embeddings)
            if padding_idx >= self.num_embeddings:
                raise ValueError(
                    f"padding_idx is {padding_idx}, expected a row of {self.num_embeddings}"
                )
            padding_idx %= self.num_embeddings
        self.padding_idx = padding_idx
        self.dtype = real_dtype(dtype)
        shape = (self.num_embeddings, self.embedding_dim)
        self.weight = Parameter(random.generator().standard_normal(shape).astype(self.dtype))
        if padding_idx is not None:
            self.weight.data[padding_idx] = 0

    def forward(self, indices):
        """Look up integers of any shape; the vectors are the new last axis."""
        return self.lookup(indices).tensor()

    def lookup(self, indices):
        """Leave looking up to a recurrent module, which is faster: ``lstm(embedding.lookup(x))``.

        Returns
        -------
        rnncore.lookup.Lookup
        """
        return functional.Lookup(indices, self.weight, self.padding_idx)

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {
            "kind": "Embedding",
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "padding_idx": self.padding_idx,
            "dtype": self.dtype.name,
        }

    def extra_repr(self):
        """Sizes, and the padding row if there is one."""
        return options_repr(self, ("num_embeddings", "embedding_dim"), padding_idx=None)


class LayerNorm(Module):
    """Normalise the last axis, then scale and shift it, as `torch.nn.LayerNorm` for one axis.

    Parameters
    ----------
    normalized_shape : int or sequence of one int
        Length of the last axis.
    eps : float, default 1e-5
    elementwise_affine : bool, default True
        Whether there are a weight and a bias.
    bias : bool, default True
    dtype : {"float32", "float64"}, default "float32"
    """

    def __init__(
        self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True, *, dtype="float32"
    ):
        super().__init__()
        shape = normalized_shape
        if isinstance(shape, (tuple, list)):
            if len(shape) != 1:
                raise ValueError(f"normalized_shape is {shape}, expected the last axis alone")
            shape = shape[0]
        self.normalized_shape = (size(shape, "normalized_shape"),)
        self.eps = number(eps, "eps", 0)
        self.elementwise_affine = bool(elementwise_affine)
        self.dtype = real_dtype(dtype)
        affine = self.elementwise_affine
        self.weight = Parameter(np.ones(self.normalized_shape, self.dtype)) if affine else None
        self.bias = (
            Parameter(np.zeros(self.normalized_shape, self.dtype)) if affine and bias else None
        )

    def forward(self, x):
        """Apply it to (..., F)."""
        x = as_tensor(x, self.dtype, "input")
        if x.ndim == 0 or x.shape[-1] != self.normalized_shape[0]:
            raise ValueError(
                f"input has shape {x.shape}, expected (..., {self.normalized_shape[0]})"
            )
        return functional.layer_norm(x, self.weight, self.bias, self.eps)

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {
            "kind": "LayerNorm",
            "normalized_shape": self.normalized_shape[0],
            "eps": self.eps,
            "elementwise_affine": self.elementwise_affine,
            "bias": self.bias is not None,
            "dtype": self.dtype.name,
        }

    def extra_repr(self):
        """Length of the axis and eps."""
        return f"{self.normalized_shape}, eps={self.eps}"
