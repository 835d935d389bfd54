"""After a fork, from many Python threads, and beside a busy program."""
# SPDX-License-Identifier: Apache-2.0

import os
import subprocess
import sys
import threading
import time

import numpy as np
import problems
import pytest
from problems import Problem

import rnncore
from rnncore import nn

# Large enough that two threads are used: the pool of the parent does not exist in the child.
SETUP = """
import os, sys, time
import numpy as np
import problems, rnncore
from problems import Problem

def answers():
    problem = Problem("lstm", 40, 100, dtype="float32", steps=30, batch=32)
    arrays = problems.draw(problem, 3)
    solved = problems.solve(problem, arrays)
    module = problems.module_of(problem)
    module.load_state_dict(problems.weights_of(problem, arrays))
    session = rnncore.Session(module, threads=rnncore.get_num_threads())
    y = session.run(arrays["x"])
    ragged = session.run(arrays["x"], lengths=np.arange(32) % 31)
    gradients = b"".join(solved[name].tobytes() for name in sorted(solved))
    return gradients + y.tobytes() + ragged.tobytes()

def wait(child, seconds=30):
    for _ in range(int(seconds * 100)):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    sys.exit("the forked child hangs")

rnncore.set_num_threads(2)
"""

FORK_AFTER_USE = """
expected = answers()
child = os.fork()
if child == 0:
    same = answers() == expected
    grandchild = os.fork()
    if grandchild == 0:
        os._exit(answers() != expected)
    os._exit(0 if same and wait(grandchild) == 0 else 1)
assert wait(child) == 0, "the child's answers differ"
assert answers() == expected, "the parent's answers differ after the fork"
print("done")
"""

FORK_BEFORE_USE = """
child = os.fork()
here = answers()
if child == 0:
    import hashlib
    print(hashlib.sha256(here).hexdigest(), flush=True)
    os._exit(0)
assert wait(child) == 0
import hashlib
print(hashlib.sha256(here).hexdigest())
"""


FEWER_THREADS = """
rnncore.set_num_threads(1)
expected = answers()
for count in (2, 3, 4, 7):
    rnncore.set_num_threads(count)
    assert answers() == expected, f"{count} threads asked for"
print("done")
"""

FAR_MORE_THREADS = """
import os
expected = answers()
before = len(os.listdir("/proc/self/task"))
rnncore.set_num_threads(10**6)
assert answers() == expected
with rnncore.autocast():
    answers()
started = len(os.listdir("/proc/self/task")) - before
assert started < 2 * len(os.sched_getaffinity(0)), f"{started} threads"
print("done")
"""


def run_script(text, **variables):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SETUP + text],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_after_use():
    """The child, and its child, train and infer without a deadlock and with the same bits."""
    result = run_script(FORK_AFTER_USE)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "done\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_before_use():
    result = run_script(FORK_BEFORE_USE)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.split()
    assert first == second


@pytest.mark.parametrize("limit", ["1", "2", "3"])
def test_fewer_threads_than_asked_for(limit):
    """OpenMP may give any number; every row is computed, every weight's gradient is still whole."""
    result = run_script(FEWER_THREADS, OMP_THREAD_LIMIT=limit)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "done\n"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="this system lists no threads")
def test_far_more_threads_than_cpus():
    """A team of hundreds on a few CPUs would spend its time waiting for turns."""
    result = run_script(FAR_MORE_THREADS)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "done\n"


def in_threads(count, work):
    """Call work(number) in as many Python threads, all at once; what it raises is raised here."""
    results, errors = [None] * count, []
    start = threading.Barrier(count)

    def run(number):
        try:
            start.wait(timeout=30)
            results[number] = work(number)
        except BaseException as error:
            errors.append(error)

    runners = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(timeout=60)
        assert not runner.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_before", "rnn_tanh"])
def test_eight_threads_share_a_session(cell):
    """Whole sequences and a stream for each: the bits of one thread alone."""
    problem = Problem(cell, 20, 100, num_layers=2, dtype="float32", steps=40, batch=9)
    arrays = problems.draw(problem, 4)
    module = problems.module_of(problem)
    module.load_state_dict(problems.weights_of(problem, arrays))
    session = rnncore.Session(module, threads=2)
    inputs = [np.roll(arrays["x"], number, axis=1) for number in range(8)]

    def work(number):
        whole = session.run(inputs[number])
        stream = session.stream(batch=9)
        steps = np.stack([stream.step(step) for step in inputs[number]])
        return whole.tobytes(), steps.tobytes()

    expected = [work(number) for number in range(8)]
    assert len(set(expected)) == 8
    for _ in range(3):
        assert in_threads(8, work) == expected


def test_eight_threads_train_their_own_modules(threads):
    """Modules are not shared, the engine beneath them is."""
    threads(2)
    problem = Problem("gru", 20, 70, dtype="float32", steps=20, batch=9)
    cases = [problems.draw(problem, number) for number in range(8)]

    def work(number):
        answers = problems.solve(problem, cases[number])
        return b"".join(answers[name].tobytes() for name in sorted(answers))

    expected = [work(number) for number in range(8)]
    assert in_threads(8, work) == expected


@pytest.mark.parametrize("proj_size", [0, 40])
def test_a_team_without_cpus_changes_no_bit_of_a_gradient(threads, proj_size):
    """With more threads than CPUs teams shrink to their first thread at any of their barriers."""
    module = nn.LSTM(70, 150, proj_size=proj_size)
    rng = np.random.default_rng(6)
    for parameter in module.parameters():
        parameter.data[...] = rng.uniform(-0.1, 0.1, parameter.shape)
    x = rng.standard_normal((40, 10, 70)).astype("float32")

    def gradients(_=None):
        leaf = rnncore.Tensor(x, requires_grad=True)
        module.zero_grad()
        y, _ = module(leaf, lengths=[9, 8, 3, 0, 9, 1, 7, 7, 2, 40])
        (y * 0.5).sum().backward()
        return [leaf.grad.tobytes(), *(p.grad.tobytes() for p in module.parameters())]

    threads(1)
    expected = gradients()
    threads(len(os.sched_getaffinity(0)) + 1)
    for _ in range(100):  # a Python thread that is new has found no CPU crowded yet
        assert in_threads(1, gradients) == [expected]


@pytest.mark.slow
def test_two_threads_beside_a_busy_program():
    """A barrier that only spins averages tens of times its best time here; ours sleeps."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one CPU")
    problem = Problem("lstm", 128, 256, dtype="float32", steps=50, batch=4)
    arrays = problems.draw(problem, 5)
    module = problems.module_of(problem)
    module.load_state_dict(problems.weights_of(problem, arrays))
    sessions = {count: rnncore.Session(module, threads=count) for count in (1, 2)}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        time.sleep(0.5)
        total = dict.fromkeys(sessions, 0.0)
        for _ in range(100):
            for count, session in sessions.items():
                start = time.perf_counter()
                session.run(arrays["x"])
                total[count] += time.perf_counter() - start
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert total[2] < 5 * total[1], f"two threads {total[2]:.2f} s, one {total[1]:.2f} s"
