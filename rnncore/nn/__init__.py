"""Layers and models, with PyTorch's names."""
# SPDX-License-Identifier: Apache-2.0

from rnncore.nn import init
from rnncore.nn.basic import Embedding, LayerNorm, Linear, ReLU, Sigmoid, Tanh
from rnncore.nn.containers import Sequential
from rnncore.nn.convolution import Conv1d
from rnncore.nn.loss import CrossEntropyLoss, MSELoss
from rnncore.nn.module import Module, Parameter
from rnncore.nn.normalisation import BatchNorm1d
from rnncore.nn.recurrent import GRU, LSTM, RNN, detach_state
from rnncore.nn.regularize import Dropout
from rnncore.nn.specification import build

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BatchNorm1d",
    "Conv1d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "MSELoss",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "build",
    "detach_state",
    "init",
]
