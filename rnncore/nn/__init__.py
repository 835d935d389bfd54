"""Layers and models, with PyTorch's names."""
# SPDX-License-Identifier: Apache-2.0

from rnncore.nn import init
from rnncore.nn.activation import (
    ELU,
    GELU,
    Hardsigmoid,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
)
from rnncore.nn.basic import Embedding, LayerNorm, Linear
from rnncore.nn.containers import Sequential
from rnncore.nn.convolution import Conv1d
from rnncore.nn.loss import CrossEntropyLoss, MSELoss
from rnncore.nn.module import Module, Parameter
from rnncore.nn.normalisation import BatchNorm1d
from rnncore.nn.recurrent import GRU, LSTM, RNN, detach_state
from rnncore.nn.regularize import Dropout
from rnncore.nn.sequences import LastStep, Masked, MergeDirections, Reverse
from rnncore.nn.specification import build

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "BatchNorm1d",
    "Conv1d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Hardsigmoid",
    "Hardtanh",
    "LastStep",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "Masked",
    "MergeDirections",
    "Module",
    "Parameter",
    "ReLU",
    "Reverse",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Tanh",
    "build",
    "detach_state",
    "init",
]
