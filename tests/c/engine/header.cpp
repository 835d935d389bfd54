// header.cpp - rnncore.h from C++, linked with the shared library.
// SPDX-License-Identifier: Apache-2.0
#include "rnncore.h"

#include <cstdio>
#include <cstring>
#include <vector>

int main() {
    rnn_engine *engine = nullptr;
    rnn_engine_options options = {};
    options.size = sizeof options;
    if (rnn_engine_create(&options, &engine) != RNN_OK) return 1;
    std::vector<float> weights(4 * 3 * (2 + 3), 0.25f), x(5 * 2, 1.0f), y(5 * 3);
    rnn_weights pointers = {};
    pointers.w_ih = weights.data();
    pointers.w_hh = weights.data() + 4 * 3 * 2;
    rnn_session *session = nullptr;
    if (rnn_session_create(engine, RNN_FLOAT32, 2, 0, &session) != RNN_OK) return 1;
    if (rnn_session_add_recurrent(session, RNN_CELL_LSTM, 3, 1, nullptr, &pointers) != RNN_OK)
        return 1;
    rnn_stream *stream = nullptr;
    if (rnn_stream_create(session, 1, 1, &stream) != RNN_OK) return 1;
    for (int t = 0; t < 5; t++)
        if (rnn_stream_step(stream, &x[2 * t], &y[3 * t]) != RNN_OK) return 1;
    rnn_stream_free(stream);
    rnn_session_free(session);
    rnn_engine_free(engine);
    std::printf("%s %g\n", rnn_version(), y.back());
    return y.back() > 0 && std::strcmp(rnn_version(), RNN_VERSION) == 0 ? 0 : 1;
}
