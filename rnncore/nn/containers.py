"""Sequential: layers one after the other, states of the recurrent ones included."""
# SPDX-License-Identifier: Apache-2.0

from itertools import pairwise

from rnncore.nn.basic import Embedding
from rnncore.nn.convolution import Conv1d
from rnncore.nn.module import Module
from rnncore.nn.recurrent import Recurrent


class Sequential(Module):
    """Modules one after the other.

    An embedding before a recurrent module is looked up by that, see `Embedding.lookup`. A recurrent
    module passes its output on; its state is kept for the caller, who gets it with
    ``return_state=True`` and may give it back at the next call (truncated back-propagation through
    time: detach it first).

    Parameters
    ----------
    *modules : Module
        Named "0", "1", ... as in PyTorch.
    """

    def __init__(self, *modules):
        super().__init__()
        for index, module in enumerate(modules):
            if not isinstance(module, Module):
                raise TypeError(f"module {index} is {type(module).__name__}, expected a Module")
            setattr(self, str(index), module)

    def __len__(self):
        """Number of modules."""
        return len(self._modules)

    def __getitem__(self, index):
        """The module at `index`."""
        return list(self._modules.values())[index]

    def __iter__(self):
        """The modules in order."""
        return iter(self._modules.values())

    def recurrents(self):
        """Return the recurrent modules, in order, also those of nested Sequentials."""
        return [m for m in self.modules() if isinstance(m, Recurrent)]

    def output_lengths(self, lengths):
        """Steps of the output for these steps of the input: convolutions change them."""
        for module in self:
            if isinstance(module, (Conv1d, Sequential)):
                lengths = module.output_lengths(lengths)
        return lengths

    def forward(self, x, state=None, lengths=None, *, return_state=False):
        """Apply the modules in order.

        Parameters
        ----------
        x : Tensor or array
            Input of the first module.
        state : tuple, optional
            One entry a recurrent module: h, or (h, c) for an LSTM; None for zeros.
        lengths : integers, shape (B,), optional
            Passed to each recurrent module and convolution, and to others that tell steps apart;
            behind a convolution, its `output_lengths`.
        return_state : bool, default False

        Returns
        -------
        y : Tensor
        state : tuple, one entry a recurrent module
            With `return_state` only.
        """
        count = len(self.recurrents())
        if state is None:
            state = (None,) * count
        if not isinstance(state, (tuple, list)) or len(state) != count:
            given = len(state) if isinstance(state, (tuple, list)) else type(state).__name__
            raise ValueError(
                f"state has {given} entries, expected one a recurrent module = {count}"
            )
        before, after = iter(state), []
        for module, following in pairwise((*self, None)):
            if _is_lookup(module, following):
                x = module.lookup(x)
            elif isinstance(module, Sequential):
                part = tuple(next(before) for _ in module.recurrents())
                x, states = module(x, part, lengths, return_state=True)
                after += states
                lengths = None if lengths is None else module.output_lengths(lengths)
            elif isinstance(module, Recurrent):
                x, final = module(x, next(before), lengths=lengths)
                after.append(final)
            elif getattr(module, "takes_lengths", False):
                x = module(x, lengths=lengths)
            elif isinstance(module, Conv1d):
                x = module(x, lengths)
                lengths = None if lengths is None else module.output_lengths(lengths)
            else:
                x = module(x)
        return (x, tuple(after)) if return_state else x

    def spec(self):
        """Describe the modules, see `Module.spec`."""
        layers = [{"name": name, **module.spec()} for name, module in self._modules.items()]
        return {"kind": "Sequential", "layers": layers}


def _is_lookup(module, following):
    """Whether a module is an embedding that the one behind it looks up: both as they are here."""
    return (
        isinstance(module, Embedding)
        and isinstance(following, Recurrent)
        and type(module).forward is Embedding.forward
        and type(following).forward is Recurrent.forward
    )
