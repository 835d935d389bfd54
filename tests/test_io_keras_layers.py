"""Layers of Keras around recurrent ones, against their formulas."""
# SPDX-License-Identifier: Apache-2.0

import keras_models as written
import numpy as np
import pytest

import rnncore
from rnncore.io.keras import from_keras


def test_convolution_and_batch_normalisation(tmp_path):
    """Against their formulas: kernels (taps, in, out), the running statistics of inference."""
    pytest.importorskip("h5py")
    rng = np.random.default_rng(2)
    kernel, bias = rng.standard_normal((3, 2, 4)).astype("f4"), rng.standard_normal(4).astype("f4")
    gamma, beta, mean = rng.standard_normal((3, 4)).astype("f4")
    variance = rng.uniform(0.5, 2, 4).astype("f4")
    config = written.sequential(
        written.layer("InputLayer", "input", batch_shape=[None, None, 2]),
        written.layer("Conv1D", "c", filters=4, kernel_size=[3], padding="causal"),
        written.layer("BatchNormalization", "b", axis=-1, epsilon=0.01, momentum=0.9),
        written.layer("LeakyReLU", "r", negative_slope=0.1),
    )
    places = {"conv1d": [kernel, bias], "batch_normalization": [gamma, beta, mean, variance]}
    written.keras_file(tmp_path / "m.keras", config, places)
    model = from_keras(tmp_path / "m.keras")
    x = rng.standard_normal((3, 6, 2)).astype("f4")
    before = np.concatenate([np.zeros((3, 2, 2), "f4"), x], 1)
    y = sum(before[:, k : k + 6] @ kernel[k] for k in range(3)) + bias
    y = gamma * (y - mean) / np.sqrt(variance + 0.01) + beta
    expected = np.where(y > 0, y, 0.1 * y)
    for found in (model(x).numpy(), rnncore.Session(model).run(x)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
