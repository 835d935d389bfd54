"""Modules: named parameters, nested, that can be trained, saved and described."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping

import numpy as np

from rnncore._engine import array_of
from rnncore.tensor import Tensor


class Parameter(Tensor):
    """A tensor that a module trains: it requires a gradient unless told otherwise."""

    __slots__ = ()

    def __init__(self, data, requires_grad=True):
        super().__init__(data, requires_grad)

    def __repr__(self):
        """Say what it is, then as a Tensor."""
        return f"Parameter({super().__repr__()})"


class Module:
    """Base of all layers and models, as `torch.nn.Module`.

    Assigning a Parameter or a Module to an attribute registers it under that name.

    Attributes
    ----------
    training : bool
        Set by `train` and `eval`; dropout looks at it.
    metadata : dict of str
        Texts that `rnncore.save` keeps with the model and `rnncore.load` brings back.
    """

    def __init__(self):
        self._parameters = {}
        self._modules = {}
        self._buffers = []
        self.training = True
        self.metadata = {}

    def __setattr__(self, name, value):
        """Register parameters and modules."""
        if isinstance(value, (Parameter, Module)):
            if "_parameters" not in self.__dict__:
                raise AttributeError(
                    f"call super().__init__() before setting {name} of {type(self).__name__}"
                )
            self._parameters.pop(name, None)
            self._modules.pop(name, None)
            self._forget_buffer(name)
            (self._parameters if isinstance(value, Parameter) else self._modules)[name] = value
        elif name in self.__dict__.get("_parameters", ()):
            if value is not None:
                raise TypeError(
                    f"{name} is a parameter, expected a Parameter or None, "
                    f"got {type(value).__name__}"
                )
            del self._parameters[name]
        elif name in self.__dict__.get("_buffers", ()):
            if value is not None and not isinstance(value, np.ndarray):
                raise TypeError(
                    f"{name} is a buffer, expected an array or None, got {type(value).__name__}"
                )
        else:
            self.__dict__.get("_modules", {}).pop(name, None)
        object.__setattr__(self, name, value)

    def __delattr__(self, name):
        """Forget a parameter or module with its attribute."""
        object.__delattr__(self, name)
        self._parameters.pop(name, None)
        self._modules.pop(name, None)
        self._forget_buffer(name)

    def _forget_buffer(self, name):
        if name in self._buffers:
            self._buffers.remove(name)

    def register_buffer(self, name, array):
        """Make an array, or None, an attribute that is saved with the parameters but not trained.

        Parameters
        ----------
        name : str
        array : ndarray or None
            None: there is nothing to save until an array is assigned.
        """
        if hasattr(self, name):
            raise KeyError(f"{name} is an attribute of {type(self).__name__} already")
        if array is not None and not isinstance(array, np.ndarray):
            raise TypeError(f"array is {type(array).__name__}, expected an array or None")
        self._buffers.append(name)
        object.__setattr__(self, name, array)

    def named_buffers(self):
        """Yield (name, array) of the buffers here and inside, names joined by dots."""
        for prefix, module in self.named_modules():
            for name in module._buffers:
                if getattr(module, name) is not None:
                    yield f"{prefix}.{name}" if prefix else name, getattr(module, name)

    def buffers(self):
        """Yield the buffers."""
        for _, array in self.named_buffers():
            yield array

    def forward(self, *args, **kwargs):
        """Compute; to be written by each module."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args, **kwargs):
        """Compute, as `forward`."""
        return self.forward(*args, **kwargs)

    def children(self):
        """Yield the modules directly inside this one."""
        yield from self._modules.values()

    def named_modules(self, prefix=""):
        """Yield (name, module) of this module ("") and all inside it."""
        yield prefix, self
        for name, module in self._modules.items():
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self):
        """Yield this module and all inside it."""
        for _, module in self.named_modules():
            yield module

    def named_parameters(self):
        """Yield (name, parameter), names joined by dots, in order of registration; each once."""
        seen = set()
        for name, parameter in self._every_name():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def _every_name(self):
        """Yield (name, parameter); a parameter that stands in several places under each name."""
        for prefix, module in self.named_modules():
            for name, parameter in module._parameters.items():
                yield f"{prefix}.{name}" if prefix else name, parameter

    def _every_array(self):
        """Yield (name, array) of parameters and buffers, module after module, as PyTorch does."""
        for prefix, module in self.named_modules():
            start = f"{prefix}." if prefix else ""
            for name, parameter in module._parameters.items():
                yield start + name, parameter.data
            for name in module._buffers:
                if getattr(module, name) is not None:
                    yield start + name, getattr(module, name)

    def parameters(self):
        """Yield the parameters, each once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def zero_grad(self, set_to_none=True):
        """Set all gradients to None, or those there are to zero."""
        for parameter in self.parameters():
            parameter.zero_grad(set_to_none)

    def train(self, mode=True):
        """Set training mode (or evaluation mode, if `mode` is False) here and inside."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self):
        """Set evaluation mode here and inside."""
        return self.train(False)

    def apply(self, function):
        """Call `function` with each module inside, then with this one."""
        for module in self.children():
            module.apply(function)
        function(self)
        return self

    def state_dict(self):
        """Copies of all parameters' and buffers' arrays by name.

        A shared one is there under each of its names.
        """
        return {name: array.copy() for name, array in self._every_array()}

    def load_state_dict(self, state_dict, strict=True):
        """Copy arrays into the parameters and buffers, by name.

        Parameters
        ----------
        state_dict : mapping of str to array
            Arrays of the same shapes; a narrower dtype of the same kind is widened, a wider one
            refused. Anything `numpy.asarray` takes, so a PyTorch module's arrays load by name.
            A shared parameter takes the array of its last name.
        strict : bool, default True
            Whether missing and unexpected names are errors.

        Raises
        ------
        ValueError
            Listing every name that is missing, unexpected or does not fit; nothing is changed then.
        TypeError
            If `state_dict` is no mapping.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict is {type(state_dict).__name__}, expected a mapping")
        own = dict(self._every_array())
        faults = []
        if strict:
            faults += [f"missing {name}" for name in own if name not in state_dict]
            faults += [f"unexpected {name}" for name in state_dict if name not in own]
        arrays = {}
        for name, target in own.items():
            if name not in state_dict:
                continue
            value = state_dict[name]
            try:
                array = array_of(value.data if isinstance(value, Tensor) else value, name)
            except ValueError as error:
                faults.append(str(error))
                continue
            kinds = "f" if target.dtype.kind == "f" else "iu"
            if array.shape != target.shape:
                faults.append(f"{name} has shape {array.shape}, expected {target.shape}")
            elif array.dtype.kind not in kinds or not np.can_cast(array.dtype, target.dtype):
                faults.append(f"{name} has dtype {array.dtype}, expected {target.dtype}")
            arrays[name] = array
        if faults:
            raise ValueError(f"state_dict does not fit {type(self).__name__}: {'; '.join(faults)}")
        copies = {name: np.array(array, own[name].dtype) for name, array in arrays.items()}
        for name, array in copies.items():
            own[name][...] = array

    def spec(self):
        """Describe the module as JSON can hold it, so that `rnncore.nn.build` makes it again."""
        raise TypeError(
            f"{type(self).__name__} is not made of rnncore.nn modules alone and cannot be "
            "described in a file: save its state_dict() with rnncore.io.native.write_safetensors, "
            "or build the model from nn.Sequential"
        )

    def extra_repr(self):
        """Options, as they stand inside the parentheses of the repr."""
        return ""

    def __repr__(self):
        """The module tree, as PyTorch prints it."""
        lines = [f"({n}): {m!r}".replace("\n", "\n  ") for n, m in self._modules.items()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        inside = "".join(f"\n  {line}" for line in lines)
        return f"{type(self).__name__}({self.extra_repr()}{inside}\n)"


def options_repr(module, positional, **options):
    """Text for `extra_repr`: the positional names' values, then options that differ from these."""
    parts = [str(getattr(module, name)) for name in positional]
    parts += [
        f"{name}={getattr(module, name)!r}"
        for name, default in options.items()
        if getattr(module, name) != default
    ]
    return ", ".join(parts)
