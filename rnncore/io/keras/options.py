"""Options of Keras' layers: which are understood, which change no number, and the activations."""
# SPDX-License-Identifier: Apache-2.0

NEUTRAL = frozenset(
    """name trainable dtype seed batch_input_shape batch_shape input_length build_config stateful
    unroll implementation dropout recurrent_dropout unit_forget_bias time_major""".split()
)
"""Options that change no number of an inference: how to begin, how to train, how to compute."""

NEUTRAL_ENDS = ("_initializer", "_regularizer", "_constraint")

PRECISIONS = {
    "float32": "float32",
    "float64": "float64",
    "float16": "float32",
    "mixed_float16": "float32",
    "mixed_bfloat16": "float32",
}
"""The precision in which a policy of Keras is computed here."""


class Options:
    """The options of one layer; those that nobody asked for are refused at the end."""

    def __init__(self, layer):
        self._layer = layer
        self._left = dict(layer.options)
        if self._left.get("time_major"):
            raise ValueError(f"{layer} has time_major=True, which is not supported")

    def take(self, name, default=None):
        """The value of an option."""
        return self._left.pop(name, default)

    def flag(self, name, default=False):
        """An option that is true or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self._layer} has {name}={value!r:.40}, expected true or false")
        return value

    def count(self, name):
        """An option that is a whole number of at least 1."""
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{self._layer} has {name}={value!r:.40}, expected a positive integer")
        return value

    def real(self, name, default):
        """An option that is a finite number."""
        value = self.take(name, default)
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not real or not -1e300 < value < 1e300:
            raise ValueError(f"{self._layer} has {name}={value!r:.40}, expected a finite number")
        return float(value)

    def finish(self):
        """Refuse what is left, by name."""
        for name, value in self._left.items():
            neutral = name in NEUTRAL or (isinstance(name, str) and name.endswith(NEUTRAL_ENDS))
            if not neutral and value is not None:
                raise ValueError(
                    f"{self._layer} has {name!s:.40}={value!r:.40}, which is not supported"
                )


def precision(layer):
    """The dtype of a layer, from its policy."""
    policy = layer.options.get("dtype") or "float32"
    name = policy
    if isinstance(policy, dict):
        config = policy.get("config")
        name = config.get("name") if isinstance(config, dict) else None
        if policy.get("class_name") not in ("DTypePolicy", "Policy", "FloatDTypePolicy"):
            name = policy.get("class_name")
    if not isinstance(name, str) or name not in PRECISIONS:
        raise ValueError(
            f"{layer} has the dtype {name!r:.60}, expected one of {', '.join(PRECISIONS)}"
        )
    return PRECISIONS[name]


def hard_sigmoid(version):
    """(alpha, beta): Keras 3 has x / 6 + 0.5, Keras 2 had 0.2 x + 0.5, between 0 and 1."""
    return (1 / 6, 0.5) if version >= 3 else (0.2, 0.5)


def gate_activation(layer, value, version):
    """An activation of Keras as `rnncore.nn.variants` has it."""
    plain = ("sigmoid", "tanh", "relu", "elu", "softsign", "softplus")
    if value in plain:
        return (value,)
    if value == "linear" or value is None:
        return ("affine", 1.0, 0.0)
    if value == "hard_sigmoid":
        return ("hard_sigmoid", *hard_sigmoid(version))
    if value == "leaky_relu":
        return ("leaky_relu", 0.2)
    known = ", ".join((*plain, "linear", "hard_sigmoid", "leaky_relu"))
    raise ValueError(f"{layer} has the activation {_named(value)}, expected one of {known}")


def _named(value):
    """An activation as messages name it."""
    if isinstance(value, dict):
        value = value.get("registered_name") or value.get("config") or value.get("class_name")
    return f"{value!r:.60}"
