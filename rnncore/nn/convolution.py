"""Conv1d: windows over the steps of sequences."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore import functional, random
from rnncore.checks import real_dtype, size, step_counts
from rnncore.nn.module import Module, Parameter, options_repr
from rnncore.tensor import as_tensor
from rnncore.windows import steps_after

REACH_MAX = 1 << 24
"""Steps that a stride, a dilation or a padding may reach at most, in the engine too."""


class Conv1d(Module):
    """Convolution over the steps of sequences, with the weights of `torch.nn.Conv1d`.

    Sequences lie as recurrent modules have them, (T, B, C) or (B, T, C) by `batch_first`, where
    PyTorch has (N, C, L). ``weight`` is PyTorch's, (out_channels, in_channels / groups,
    kernel_size). Output step t sees the input steps ``t * stride + j * dilation - before``,
    j = 0, 1, ..., kernel_size - 1, zeros where there is none. Products are float32 inside
    `autocast` too.

    Parameters
    ----------
    in_channels, out_channels, kernel_size : int
    stride : int, default 1
    padding : int, pair of int, "same" or "causal", default 0
        Zeros on both sides; before and after; as many as give T outputs (stride 1), the odd one
        after, as PyTorch; or (kernel_size - 1) * dilation before and none after, so that no output
        sees a step after its own and a Stream can run it.
    dilation : int, default 1
    groups : int, default 1
        Divides both numbers of channels; each group of inputs reaches its group of outputs alone.
    bias : bool, default True
    batch_first : bool, default False
    dtype : {"float32", "float64"}, default "float32"
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        *,
        batch_first=False,
        dtype="float32",
    ):
        super().__init__()
        self.in_channels = size(in_channels, "in_channels")
        self.out_channels = size(out_channels, "out_channels")
        self.kernel_size = size(kernel_size, "kernel_size")
        self.stride = size(stride, "stride")
        self.dilation = size(dilation, "dilation")
        self.groups = size(groups, "groups")
        self.padding = self._checked_padding(padding)
        self._check_reach()
        self.batch_first = bool(batch_first)
        self.dtype = real_dtype(dtype)
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected a multiple of groups = "
                    f"{self.groups}"
                )
        fan_in = self.in_channels // self.groups * self.kernel_size
        bound = 1 / np.sqrt(fan_in)
        draw = random.generator().uniform
        shape = (self.out_channels, self.in_channels // self.groups, self.kernel_size)
        self.weight = Parameter(draw(-bound, bound, shape).astype(self.dtype))
        self.bias = (
            Parameter(draw(-bound, bound, self.out_channels).astype(self.dtype)) if bias else None
        )

    def _check_reach(self):
        span = (self.kernel_size - 1) * self.dilation + 1
        reaches = {"stride": self.stride, "padding": max(self.pads), "dilation": self.dilation}
        for name, reach in {**reaches, "(kernel_size - 1) * dilation + 1": span}.items():
            if reach > REACH_MAX:
                raise ValueError(f"{name} is {reach}, expected at most {REACH_MAX}")

    def _checked_padding(self, padding):
        if isinstance(padding, str):
            if padding not in ("same", "causal"):
                raise ValueError(
                    f'padding is {padding!r}, expected an integer, a pair, "same" or "causal"'
                )
            if padding == "same" and self.stride != 1:
                raise ValueError(f'padding "same" needs stride 1, stride is {self.stride}')
            return padding
        if isinstance(padding, (tuple, list)):
            if len(padding) != 2:
                raise ValueError(f"padding is {padding!r}, expected a pair (before, after)")
            return tuple(size(p, "padding", 0) for p in padding)
        return size(padding, "padding", 0)

    @property
    def pads(self):
        """Steps of zeros before and after a sequence."""
        reach = (self.kernel_size - 1) * self.dilation
        if self.padding == "causal":
            return reach, 0
        if self.padding == "same":
            return reach // 2, reach - reach // 2
        return self.padding if isinstance(self.padding, tuple) else (self.padding,) * 2

    def output_lengths(self, lengths):
        """Steps of the output for these steps of the input, an integer or an array of them."""
        counts = step_counts(lengths)
        after = steps_after(counts, self.kernel_size, self.stride, self.pads, self.dilation)
        return after if counts.ndim else int(after)

    def forward(self, x, lengths=None):
        """Apply it to (T, B, in_channels), (B, T, in_channels), or one sequence (T, in_channels).

        Parameters
        ----------
        x : Tensor or array
        lengths : integers, shape (B,), optional
            Valid steps of each row, 0 to T: what lies beyond counts as zeros.

        Returns
        -------
        Tensor
            In the layout of x, `output_lengths` of T steps; zero beyond `output_lengths` of a
            row's length. No steps where a sequence is shorter than the window.
        """
        x = as_tensor(x, self.dtype, "input")
        alone = x.ndim == 2
        if alone and lengths is None:
            x = x.reshape(1, *x.shape) if self.batch_first else x.reshape(len(x), 1, x.shape[1])
        if x.ndim != 3 or x.shape[2] != self.in_channels:
            order = "batch, steps" if self.batch_first else "steps, batch"
            raise ValueError(
                f"input has shape {x.shape}, expected ({order}, in_channels = {self.in_channels})"
            )
        y = functional.conv1d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.pads,
            dilation=self.dilation,
            groups=self.groups,
            lengths=lengths,
            batch_first=self.batch_first,
        )
        return y.reshape(y.size // self.out_channels, self.out_channels) if alone else y

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {
            "kind": "Conv1d",
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": list(self.padding) if isinstance(self.padding, tuple) else self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": self.bias is not None,
            "batch_first": self.batch_first,
            "dtype": self.dtype.name,
        }

    def extra_repr(self):
        """Sizes, and options that differ from the defaults."""
        text = options_repr(
            self,
            ("in_channels", "out_channels"),
            kernel_size=None,
            stride=None,
            padding=0,
            dilation=1,
            groups=1,
            batch_first=False,
        )
        return text if self.bias is not None else f"{text}, bias=False"
