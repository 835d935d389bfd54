/* main.c - run the tests named on the command line, or all: engine_tests [name [bits.txt]].
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "tests.h"

int failures;
const char *context = "";
const char *bits_path;

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
#define TEST(name) {#name, test_##name},
#include "tests.h"
#undef TEST
};

int main(int count, char **arguments) {
    int known = count < 2;
    bits_path = count > 2 ? arguments[2] : NULL;
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        if (count > 1 && strcmp(arguments[1], tests[i].name) != 0) continue;
        known = 1;
        context = tests[i].name;
        tests[i].run();
        printf("%s: %s\n", tests[i].name, failures ? "FAILED" : "ok");
    }
    if (!known) fprintf(stderr, "there is no test \"%s\"\n", arguments[1]);
    return failures || !known;
}
