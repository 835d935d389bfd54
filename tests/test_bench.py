"""The race's own arithmetic: cases, statistics, floors, comparisons, bars, the report."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
if not (ROOT / "bench").exists():
    pytest.skip("the sources are not here", allow_module_level=True)
sys.path.append(str(ROOT))  # behind everything else, so that rnncore stays the one that is tested

# ruff: noqa: E402 - only now can it be found
from bench import __main__ as main
from bench import (
    agreement,
    bars,
    callgrind,
    ceilings,
    constants,
    drawn,
    problem,
    quiet,
    report,
    results,
    stats,
    tables,
    workloads,
)
from bench.workloads import Case

FIGURES = """\
fma_avx2 1 100e9
dot_int8 1 400e9
read_16384 1 200e9
read_65536 1 100e9
read_1048576 1 50e9
fma_avx2 2 200e9
read_16384 2 400e9
read_65536 2 200e9
barrier 2 2e7
"""


@pytest.fixture
def machine():
    return ceilings.parse(FIGURES)


def record(case, ours, peers, threads=1, **fields):
    """A case's record: turns of ours, and of each peer by contestant."""
    sides = {"rnncore": ours, **peers}
    timed = {
        name: {
            "contestant": name,
            "turns": turns,
            "seconds": stats.median(turns),
            "first": 1e-3,
            "error": 2e-3,
        }
        for name, turns in sides.items()
        if turns
    }
    return {
        "case": dataclasses.asdict(case),
        "name": case.name,
        "threads": threads,
        "results": timed,
        "absent": {},
        "void": {},
        "valid_steps": case.steps * case.batch,
        "took": 1.0,
        **fields,
    }


def race(*records):
    return {
        "date": "2026-01-01 00:00 UTC",
        "command": "python -m bench",
        "machine": {"CPU": "one of ours"},
        "versions": {"rnncore": "0.1.0"},
        "missing": {"JAX": "not installed: No module named 'jax'"},
        "threads": [1, 2],
        "seconds": 1.0,
        "minutes": 3.0,
        "ceilings": ceilings.parse(FIGURES).rows(),
        "records": list(records),
    }


# ---- cases ----------------------------------------------------------------------------------


def test_names_of_cases_are_unique_and_the_quick_ones_exist():
    names = [case.name for case in workloads.CASES]
    assert len(set(names)) == len(names) > 100
    assert set(names) >= workloads.QUICK
    assert {case.workload for case in workloads.CASES} == set(workloads.WORKLOADS)


def test_selection():
    assert len(workloads.selected()) == len(workloads.CASES)
    steps = workloads.selected(["step"], ["gru", "rnn"])
    assert {case.cell for case in steps} == {"gru", "rnn"}
    assert {case.workload for case in steps} == {"step"}
    assert {case.name for case in workloads.selected(quick=True)} == workloads.QUICK


def test_drawn_cases_are_the_same_each_time_and_no_larger_than_they_should_be():
    cases = drawn.cases(200, 5)
    assert cases == drawn.cases(200, 5) != drawn.cases(200, 6)
    assert len({case.name for case in cases}) == 200
    assert {case.workload for case in cases} == set(drawn.KINDS)
    assert {case.inputs == case.hidden for case in cases} == {True, False}
    for case in cases:
        work = ceilings.cost(case, case.steps * case.batch).operations
        assert work <= drawn.WORK_MAX or max(case.steps, case.batch) <= 2, case.name
    steps = drawn.cases(200, 5, ["step"], ["gru"])
    assert {(case.workload, case.cell) for case in steps} == {("step", "gru")}


def test_drawn_cases_have_inputs_of_their_own_width_and_ragged_lengths():
    made = problem.make(Case("ragged", "gru", 8, 50, 40, inputs=5))
    assert made.x.shape == (40, 50, 5)
    assert made.weights["weight_ih_l0"].shape == (24, 5)
    assert made.lengths.max() == 40
    assert made.lengths.mean() < 30


def test_a_problem_is_the_same_each_time_and_has_the_shapes_of_its_case():
    case = Case("ragged", "gru", 8, 5, 400, layers=2, directions=2)
    one, two = problem.make(case), problem.make(case)
    assert one.x.shape == (400, 5, 8)
    assert np.array_equal(one.x, two.x)
    assert one.weights["weight_ih_l1_reverse"].shape == (24, 16)
    assert one.lengths.max() == 400
    assert one.lengths.min() >= 1
    assert one.valid_steps == one.lengths.sum() < 5 * 400


# ---- statistics -----------------------------------------------------------------------------


def test_percentile():
    values = list(range(1, 101))
    assert stats.percentile(values, 0.5) == 50
    assert stats.percentile(values, 0.99) == 99
    assert stats.percentile(values, 0.999) == 100
    assert stats.percentile([3.0], 0.5) == 3.0


def test_paired_ratio_does_not_see_a_machine_that_slows_down():
    assert stats.paired_ratio([1, 10, 100], [2, 20, 200]) == 2
    with pytest.raises(ValueError, match="shorter"):
        stats.paired_ratio([1, 2], [1])


def test_geometric_mean():
    assert stats.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert stats.geometric_mean(iter([8.0])) == pytest.approx(8.0)


# ---- ceilings and floors --------------------------------------------------------------------


def test_peaks(machine):
    assert machine.peak("float32", 1) == 100e9
    assert machine.peak("int8", 1) == 400e9
    assert machine.peak("int8", 2) == 200e9  # no figure of its own: as float32
    assert ceilings.Ceilings.of_rows(machine.rows()) == machine


def test_bandwidth_is_interpolated_over_the_size(machine):
    assert machine.bandwidth(1024, 1) == 200e9
    assert machine.bandwidth(32768, 1) == pytest.approx(150e9)
    assert machine.bandwidth(65536, 1) == 100e9
    assert machine.bandwidth(1 << 30, 1) == 50e9
    assert machine.bandwidth(2 * 65536, 2) == 200e9  # half of it each


def test_cost_counts_products_and_weights():
    step = ceilings.cost(Case("step", "lstm", 64), 1)
    assert step.operations == 2 * 4 * 64 * 128
    assert step.weights == 4 * (4 * 64 * 128)
    sequence = ceilings.cost(Case("sequence", "lstm", 64, steps=100), 100)
    assert (sequence.weights, sequence.passes) == (4 * (4 * 64 * 64), 100)
    training = ceilings.cost(Case("training", "lstm", 64, steps=100), 100)
    assert training.operations == 3 * sequence.operations
    low = ceilings.cost(Case("step", "lstm", 64, precision="int8"), 1)
    assert low.weights == step.weights / 4


def test_floors(machine):
    step = ceilings.floors(Case("step", "lstm", 64), 1, machine, 1)
    assert step.bound == "reading weights"
    assert step.together == step.reading > step.arithmetic
    batch = ceilings.floors(Case("batch", "lstm", 64, 64, 50), 3200, machine, 1)
    assert batch.bound == "arithmetic"
    assert batch.together == batch.arithmetic > batch.reading
    training = ceilings.floors(Case("training", "lstm", 64, 8, 50), 400, machine, 1)
    assert training.together == training.arithmetic > training.reading == 0


def test_share_of_the_peak_beside_each_turn_does_not_see_a_machine_that_slows_down(machine):
    case = Case("batch", "gru", 256, 32, 50)
    found = record(case, [2e-3, 4e-3, 8e-3], {})
    row = results.Row(found, machine)
    assert row.paired_peak_share == row.peak_share(4e-3)
    found["results"]["rnncore"]["peaks"] = [100e9, 50e9, 25e9]
    assert row.paired_peak_share == pytest.approx(row.peak_share(2e-3))
    assert f"({tables.percent(row.paired_peak_share)})" in report.markdown(race(found))


def test_ceilings_are_raised_figure_by_figure(machine):
    other = ceilings.parse("fma_avx2 1 120e9\ndot_int8 1 300e9\ndot_bf16 1 200e9\n")
    figures = machine.raised(other).figures
    assert figures["fma_avx2", 1] == 120e9
    assert figures["dot_int8", 1] == 400e9
    assert figures["dot_bf16", 1] == 200e9
    assert figures["barrier", 2] == 2e7


# ---- racing again ---------------------------------------------------------------------------


def test_what_was_quiet_is_not_raced_again():
    quiet, noisy, new = (Case("step", "lstm", hidden) for hidden in (8, 16, 32))
    records = [record(quiet, [1e-6], {}, quiet=True), record(noisy, [1e-6], {}, quiet=False)]
    places = {(r["name"], r["threads"]): k for k, r in enumerate(records)}
    due = [main._is_due(records, places, case, 1) for case in (quiet, noisy, new)]
    assert due == [False, True, True]
    assert main._is_due(records, places, quiet, 2)


def test_a_race_is_continued_on_its_own_machine_only(tmp_path):
    path = tmp_path / "race.json"
    before = race(record(Case("step", "lstm", 8), [1e-6], {}))
    path.write_text(json.dumps({**before, "waited": 1.0}), encoding="utf-8")
    now = {"command": "and again", "machine": {"CPU": "one of ours", "load before": "1"}}
    main._continue(now, path)
    assert now["records"] == before["records"]
    assert now["command"] == "python -m bench; and again"
    with pytest.raises(SystemExit, match="where CPU was one of ours, here it is another"):
        main._continue({"command": "", "machine": {"CPU": "another"}}, path)


# ---- agreement ------------------------------------------------------------------------------


def test_difference_of_outputs_is_absolute_and_of_gradients_relative():
    reference, found = [np.array([100.0, 1.0])], [np.array([100.0, 1.5])]
    assert agreement.difference(Case("step", "rnn", 2), reference, found) == 0.5
    assert agreement.difference(Case("training", "rnn", 2), reference, found) == 0.005


@pytest.mark.parametrize(
    "found", [[], [np.zeros(3)], [np.array([0.0, np.nan])], [np.array([0.0, np.inf])]]
)
def test_what_has_another_shape_or_is_not_finite_differs(found):
    assert agreement.difference(Case("step", "rnn", 2), [np.zeros(2)], found) == np.inf


def test_every_case_has_a_tolerance():
    assert all(0 < agreement.tolerance(case) < 0.2 for case in workloads.CASES)


# ---- the report -----------------------------------------------------------------------------


def test_figures_in_a_readers_units():
    assert tables.duration(1.234e-7) == "0.12 us"
    assert tables.duration(45.64e-3) == "45.6 ms"
    assert tables.duration(2.0) == "2.00 s"
    assert tables.duration(None) == "-"
    assert tables.ratio(0.954) == "**0.95x**"
    assert tables.ratio(12.34) == "12.3x"


def test_report_shows_lost_absent_and_void_cells():
    step, batch = Case("step", "lstm", 64), Case("batch", "gru", 128, 8, 50)
    text = report.markdown(
        race(
            record(step, [1e-6] * 3, {"NumPy": [2e-6] * 3, "PyTorch": [8e-7] * 3}),
            record(
                batch,
                [],
                {"NumPy": [1e-3] * 3},
                absent={"rnncore": "has not learnt it"},
                void={"OpenVINO": "differs by 1.0e+00"},
            ),
        )
    )
    assert "**0.80x**" in text
    assert "## Lost: 1 of 1 cells" in text
    assert "| step-lstm-H64 | 1 | PyTorch | **0.80x** |" in text
    assert "has not learnt it" in text
    assert "differs by 1.0e+00" in text
    assert "not installed: No module named 'jax'" in text
    assert "| batch-gru-B8-T50-H128 | 1 | not available |" in text


def test_drawn_cases_are_not_judged_by_bars():
    case = Case("sequence", "gru", 8, steps=7, inputs=3)
    text = report.markdown(race(record(case, [1e-3] * 3, {})) | {"drawn": True})
    assert "sequence-gru-B1-T7-I3-H8" in text
    assert "## Sequence\n" in text
    assert "Bars" not in text


def test_progress_line():
    case = Case("step", "lstm", 64)
    line = report.progress_line(
        record(case, [1e-6], {"NumPy": [2e-6]}, void={"JAX": "its process ended"})
    )
    assert (
        line == "1 thr step-lstm-H64: rnncore 1.00 us, NumPy 2.00 us, JAX VOID (its process ended)"
    )


# ---- bars -----------------------------------------------------------------------------------


def judged(measured, workload):
    found = bars.evaluate(results.rows(measured), measured)
    return next(bar for bar in found if bar.workload == workload)


def sequences(*ratios):
    """Records of sequences in which we are so many times faster."""
    sizes = (64, 128, 256, 512, 1024)
    return race(
        *(
            record(
                Case("sequence", "lstm", hidden, steps=100), [1e-3] * 3, {"NumPy": [r * 1e-3] * 3}
            )
            for hidden, r in zip(sizes, ratios, strict=False)
        )
    )


@pytest.mark.parametrize(
    ("ratios", "met", "aimed"),
    [
        pytest.param((1.5, 1.5), True, True, id="met"),
        pytest.param((1.0, 1.5), True, False, id="the-aim-is-missed"),
        pytest.param((0.99, 3.0), False, True, id="one-cell-is-lost"),
        pytest.param((1.1, 1.1), False, False, id="the-mean-is-missed"),
    ],
)
def test_sequence_bar(ratios, met, aimed):
    bar = judged(sequences(*ratios), "sequence")
    assert (bar.met, bar.aimed) == (met, aimed)


def test_what_was_not_measured_is_not_judged():
    found = bars.evaluate([], {})
    assert all(bar.met is None for bar in found)
    assert "0 of 0 bars" in bars.markdown(found)


def test_void_outputs_miss_a_bar():
    case = Case("sequence", "lstm", 64, steps=100)
    measured = race(record(case, [], {"NumPy": [1e-3]}, void={"rnncore": "differs by 1.0"}))
    assert judged(measured, "sequence").met is False


def test_the_ragged_bar_compares_with_the_batch_without_lengths():
    ragged, full = (Case(workload, "gru", 256, 32, 400) for workload in ("ragged", "full"))
    for seconds, met in ((0.25, True), (0.30, False)):
        measured = race(
            record(ragged, [seconds] * 3, {}, valid_steps=3200), record(full, [1.0] * 3, {})
        )
        assert judged(measured, "ragged batch").met is met


def test_peers_that_a_bar_names_are_the_only_ones_it_sees():
    case = Case("ragged", "lstm", 256, 32, 400)
    peers = {"NumPy": [1e-3] * 3, "PyTorch": [4e-3] * 3, "ONNX Runtime": [1.1e-3] * 3}
    measured = race(record(case, [1e-3] * 3, peers))
    assert judged(measured, "ragged batch / PyTorch").met is True
    assert judged(measured, "ragged batch / ONNX Runtime").met is False


@pytest.mark.parametrize(
    ("theirs", "limit"), [(0.3, "2.24x, beyond the hardware"), (0.42, "3.13x")]
)
def test_cells_below_their_bar_say_how_near_the_hardware_lets_them_come(theirs, limit):
    case = Case("ragged", "lstm", 256, 32, 400)  # whose arithmetic takes 134 ms
    measured = race(record(case, [0.15] * 3, {"PyTorch": [theirs] * 3, "NumPy": [0.2] * 3}))
    text = report.markdown(measured).split("### Cells below their bar")[1]
    row = f"| {theirs / 0.15:.2f}x | 3x | {limit} | arithmetic | 89 % | PyTorch |"
    assert text.count("ragged batch") == 1
    assert row in text


def test_a_share_of_the_peak_below_its_bar_is_listed():
    large = Case("batch", "lstm", 256, 32, 50)  # 16.8 ms of arithmetic
    measured = race(*(record(large, [t] * 3, {}) for t in (0.018, 0.02)))
    bar = judged(measured, "batch, B >= 32, H >= 256")
    assert [cell.figure for cell in bar.missed] == ["84 %"]
    assert "| 84 % | 90 % | 100 % |" in bars.markdown([bar])
    assert "Cells below" not in bars.markdown([dataclasses.replace(bar, missed=())])


def test_bars_of_constants_and_costs():
    measured = race()
    measured["ceilings"] = [["fma_avx2", 1, constants.PEAK]]
    measured["engine_calls"] = [
        {"kind": "step", "cell": "lstm", "hidden": 16, "threads": 1, "seconds": 0.08e-6},
        {"kind": "int8 step", "cell": "lstm", "hidden": 256, "threads": 1, "seconds": None},
    ]
    measured["crowded"] = [{"name": "step", "one": 1.0, "two": 1.3, "slowdown": 1.3}]
    measured["footprint"] = [
        {"name": "rnncore", "import": 0.080, "resident": 30e6, "wheel": 2e6},
        {"name": "NumPy", "import": 0.060, "resident": 25e6},
    ]
    assert judged(measured, "C step / RTNeural").met is True
    assert judged(measured, "C step / RTNeural").aimed is False
    assert judged(measured, "C int8 LSTM step / oneDNN").met is None
    raced = {"kind": "training", "cell": "gru", "hidden": 512, "threads": 1, "seconds": 0.2}
    measured["engine_calls"] += [raced | {"onednn": 0.21, "ratio": 1.04}]
    bar = judged(measured, "C GRU training B=32 T=50 / oneDNN")
    assert (bar.met, bar.aimed) == (True, False)  # though both are slower than the constant
    assert "200 ms / 210 ms = 1.04x" in bar.figure
    measured["engine_calls"][-1]["ratio"] = 0.99
    assert judged(measured, "C GRU training B=32 T=50 / oneDNN").met is False
    measured["ceilings"] = [["fma_avx2", 1, 2 * constants.PEAK]]
    elsewhere = judged(measured, "C step / RTNeural")
    assert elsewhere.met is None
    assert "another kind of machine" in elsewhere.figure
    assert judged(measured, "two threads beside a busy process").met is False
    bar = judged(measured, "import over NumPy, ms")
    assert (bar.figure, bar.met, bar.aimed) == ("20.0", True, False)
    assert judged(measured, "wheel, MB").aimed is False
    assert judged(measured, "resident memory over NumPy, MB").met is True


# ---- quiet moments -------------------------------------------------------------------------


def test_patience_waits_for_a_quiet_machine_and_races_again(monkeypatch):
    speeds = iter([80.0, 97.0, 60.0, 110.0, 109.0])  # before twice, after, before, after
    monkeypatch.setattr(quiet, "PAUSE", 0.0)
    patience = quiet.Patience(lambda n: {("fma", n): next(speeds)}, {("fma", 2): 100.0}, 1)
    records = iter([{"n": 1}, {"n": 2}])
    assert patience.race(lambda: next(records), 2) == {"n": 2, "quiet": True}
    assert next(speeds, None) is None


def test_patience_ends():
    patience = quiet.Patience(lambda n: {("fma", n): 1.0}, {("fma", 1): 100.0}, 1e-9)
    patience.waited = 1.0
    assert patience.race(dict, 1) == {"quiet": False}
    assert quiet.Patience(None, {}, 0.0).race(dict, 1) == {"quiet": None}


# ---- the guard of instruction counts --------------------------------------------------------


def test_counts_are_held_to_the_record_of_their_compiler():
    records = {"gcc 12": {"step": 1000, "run": 2000}, "gcc 13": {"step": 1100, "run": 2000}}
    assert callgrind.compare({"step": 1029, "run": 1941}, records, "gcc 12")[1] == []
    assert callgrind.compare({"step": 1031, "run": 2000}, records, "gcc 12")[1] == ["step"]
    assert callgrind.compare({"step": 1000, "run": 1900}, records, "gcc 12")[1] == ["run"]
    assert callgrind.compare({"step": 1031, "run": 2000}, records, "gcc 13")[1] == ["step"]


def test_another_compiler_is_held_loosely_and_told_so():
    records = {"gcc 12": {"step": 1000}}
    lines, wrong = callgrind.compare({"step": 1200}, records, "clang 20")
    assert wrong == []
    assert "nothing is recorded for clang 20" in lines[0]
    assert callgrind.compare({"step": 1400}, records, "clang 20")[1] == ["step"]


def test_calls_on_one_side_only_are_wrong():
    records = {"gcc 12": {"step": 1000, "gone": 5}}
    assert callgrind.compare({"step": 1000, "new": 7}, records, "gcc 12")[1] == ["gone", "new"]
    assert callgrind.compare({"step": 1000}, {}, "gcc 12")[1] == ["step"]


def test_the_record_has_ten_calls():
    records = json.loads(callgrind.RECORDS.read_text(encoding="utf-8"))
    assert records
    assert all(len(counts) == 10 for counts in records.values())
