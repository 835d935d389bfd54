"""Layers and models, with PyTorch's names."""
# SPDX-License-Identifier: Apache-2.0

from rnncore.nn import init
from rnncore.nn.basic import Embedding, LayerNorm, Linear, ReLU, Sigmoid, Tanh
from rnncore.nn.containers import Sequential
from rnncore.nn.loss import CrossEntropyLoss, MSELoss
from rnncore.nn.module import Module, Parameter
from rnncore.nn.recurrent import GRU, LSTM, RNN, detach_state
from rnncore.nn.regularize import Dropout
from rnncore.nn.sequences import LastStep, Masked, MergeDirections, Reverse
from rnncore.nn.specification import build

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "LastStep",
    "LayerNorm",
    "Linear",
    "MSELoss",
    "Masked",
    "MergeDirections",
    "Module",
    "Parameter",
    "ReLU",
    "Reverse",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "build",
    "detach_state",
    "init",
]
