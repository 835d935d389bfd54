"""What C libraries reached that may not be in the race: measured earlier, on one kind of machine.

Two cores of an AMD EPYC (Zen 4, 3.68 GHz, AVX-512, 1 MiB L2 a core, 32 MiB L3), medians, float32
unless said, I = H. Nothing here was measured in the run that reports it, and on machines of another
peak nothing is judged by it.
"""
# SPDX-License-Identifier: Apache-2.0

PEAK = 117.6e9  # float32 operations a second of one thread of that machine

# RTNeural, one streaming step from C++, the fastest of its back ends; sizes up to 64 are compiled
# in (templates), the larger ones are given at run time.
RTNEURAL_STEP = {
    ("lstm", 16): 0.09e-6,
    ("lstm", 32): 0.26e-6,
    ("lstm", 64): 1.25e-6,
    ("lstm", 128): 5.2e-6,
    ("lstm", 256): 25.9e-6,
    ("lstm", 512): 104e-6,
    ("gru", 16): 0.08e-6,
    ("gru", 32): 0.22e-6,
    ("gru", 64): 0.93e-6,
    ("gru", 128): 3.74e-6,
    ("gru", 256): 18.0e-6,
    ("gru", 512): 73.5e-6,
}

# oneDNN's own primitives by benchdnn, weights packed beforehand: GRU forward and backward
# B=32 T=50, by (hidden, threads).
ONEDNN_GRU_TRAINING = {
    (256, 1): 37.9e-3,
    (512, 1): 142e-3,
    (256, 2): 24.4e-3,
    (512, 2): 80.3e-3,
}

# oneDNN: one int8 step of an LSTM on one thread, by hidden.
ONEDNN_INT8_STEP = {256: 8.6e-6, 512: 33e-6, 1024: 116e-6}
