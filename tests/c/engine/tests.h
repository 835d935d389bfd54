/* tests.h - THE list of C tests; TEST(name) calls test_name(). Once plain for prototypes, then by
 * main.c. SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST
#define TEST(name) void test_##name(void);
#define TEST_PROTOTYPES
extern const char *bits_path;
#endif
TEST(gradients)
TEST(routes)
TEST(precision)
TEST(overwritten)
TEST(lookup)
TEST(bits)
TEST(golden_bits)
TEST(threads)
TEST(ragged_chunks)
TEST(ragged_bits)
TEST(layer_errors)
TEST(session_errors)
TEST(engine_errors)
TEST(oversized)
TEST(oversized_sessions)
TEST(failing_allocations)
TEST(failing_initial_states)
TEST(failing_session_run)
TEST(nn_errors)
TEST(nn_failing_allocations)
TEST(nn_rounding_modes)
TEST(pool)
TEST(arena)
TEST(store)
TEST(engine_memory)
TEST(step_allocations)
TEST(stream_equals_run)
TEST(rounding_modes)
TEST(session_equals_layers)
TEST(strides)
TEST(state_round_trip)
TEST(tokens)
TEST(bad_tokens)
TEST(conv_numbers)
TEST(conv_stream)
TEST(conv_errors)
TEST(conv_failing_allocations)
TEST(team)
TEST(crowded_team)
TEST(claims)
TEST(places)
TEST(caller_leaves)
TEST(low_bits)
TEST(low_failing_allocations)
TEST(low_errors)
TEST(low_training)
TEST(low_tile_order)
#ifdef TEST_PROTOTYPES
#undef TEST
#undef TEST_PROTOTYPES
#endif
