"""Numbers of ONNX Runtime's tests of its operators LSTM, GRU and RNN: what goes in, what comes out.

Source: project ONNX Runtime (MIT licence), onnxruntime/test/providers/cpu/rnn/, the files
deep_cpu_lstm_op_test.cc, deep_cpu_gru_op_test.cc and rnn_op_test.cc. A case bears its test's name,
without "ONNXRuntime_" before it; where a test has several runs, a suffix tells them apart. Names of
inputs, outputs and attributes, shapes, and the order of gates are ONNX's; activations are written
as they are there, "sigmoid" too. Runs with the numbers of another one are not repeated.

What ONNX Runtime does otherwise than the document does not show in these numbers: no cell state
reaches its clip, and rows of length 0 start from zeros (test_io_onnx_values.py holds them to that).
"""
# SPDX-License-Identifier: Apache-2.0

from onnxruntime_values import gru, lstm, rnn

CASES = [*lstm.CASES, *gru.CASES, *rnn.CASES]
