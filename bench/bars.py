"""The bars the project has set itself: each with its figure, met or not."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

from bench import constants, results, stats
from bench.ceilings import Ceilings
from bench.contestants import OURS
from bench.tables import digits, duration, percent, table

LOW = ("int8", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Missed:
    """A cell that does not reach its bar.

    Attributes
    ----------
    row : results.Row
    figure, must, limit : str
        What was measured, what the bar asks for, and what it would be if our time were the floor.
    peer : tuple or None
        (variant, result) of the fastest peer that the bar speaks of.
    """

    row: results.Row
    figure: str
    must: str
    limit: str
    peer: tuple | None


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes
    ----------
    workload, must, aim : str
    figure : str
        What was measured.
    met, aimed : bool or None
        Whether the bar and the aim were reached; None where that cannot be said, or where there
        is an aim alone.
    missed : tuple of Missed
    """

    workload: str
    must: str
    figure: str
    met: bool | None
    aim: str = ""
    aimed: bool | None = None
    missed: tuple = ()


def evaluate(rows, measured):
    """Judge all bars.

    Parameters
    ----------
    rows : list of results.Row
    measured : dict
        The race, with `engine_calls`, `crowded` and `footprint`.

    Returns
    -------
    list of Bar
    """
    calls = measured.get("engine_calls", [])
    alike = _is_like_constants(measured)
    return [
        *_steps(rows),
        _rtneural(calls, alike),
        _sequence(rows),
        *_batch(rows),
        _against("two bidirectional layers", _of(rows, "bidirectional"), 1.1, aim=1.25),
        *_ragged(rows),
        *_training(rows),
        *_characters(rows),
        *_low_precision(rows),
        *_onednn(calls, alike),
        _crowded(measured.get("crowded", [])),
        *_footprint(measured.get("footprint", [])),
    ]


def markdown(bars):
    """A table of bars."""
    head = ["workload", "must", "measured", "met", "aim", "reached"]
    verdict = {True: "yes", False: "**no**", None: "not judged"}
    cells = [
        [
            b.workload,
            b.must,
            b.figure,
            verdict[b.met] if b.must else "",
            b.aim,
            verdict[b.aimed] if b.aim else "",
        ]
        for b in bars
    ]
    met = sum(bar.met is True for bar in bars)
    judged = sum(bar.met is not None for bar in bars)
    whole = f"{met} of {judged} bars that were judged are met."
    return "\n\n".join([table(head, cells, left=len(head)), whole, *_cells_below(bars)])


def _cells_below(bars):
    """Each cell below its bar, and how near the hardware lets it come."""
    missed = [(bar.workload, cell) for bar in bars for cell in bar.missed]
    if not missed:
        return
    head = ["bar", "case", "threads", "measured", "must", "at the floor", "larger floor"]
    head += ["floor / our time", "best peer", "floor / its time", "quiet"]
    cells = [
        [
            workload,
            cell.row.case.name,
            cell.row.threads,
            cell.figure,
            cell.must,
            cell.limit,
            cell.row.floors.bound,
            percent(cell.row.floor_share(cell.row.ours["seconds"])),
            cell.peer[0] if cell.peer else "-",
            percent(cell.row.floor_share(cell.peer[1]["seconds"])) if cell.peer else "-",
            {True: "yes", False: "no"}.get(cell.row.record.get("quiet"), "not looked"),
        ]
        for workload, cell in missed
    ]
    yield "### Cells below their bar\n\n" + table(head, cells, left=2)


def _of(rows, workload, precision="float32", **fields):
    """Rows of a workload whose cases have these fields; a tuple stands for one of its values."""
    return [
        row
        for row in rows
        if row.case.workload == workload
        and row.case.precision == precision
        and all(
            getattr(row.case, name) in (value if isinstance(value, tuple) else (value,))
            for name, value in fields.items()
        )
    ]


def _place(row):
    return f"{row.case.name}, {row.threads} thr"


def _against(workload, rows, least, *, aim=None, mean=None, mean_aim=None, among=None):
    """Each ratio to the best peer at least `least`, their geometric mean at least `mean`."""
    must = f">= {least:g}x everywhere" + (f", geometric mean >= {mean:g}x" if mean else "")
    aim_text = f"{aim:g}x" if aim else f"geometric mean {mean_aim:g}x" if mean_aim else ""
    void = [_place(row) for row in rows if OURS in row.record["void"]]
    if void:
        return Bar(workload, must, f"our outputs are void: {', '.join(void)}", False, aim_text)
    pairs = [(row.ratio(among), row) for row in rows]
    pairs = [(ratio, row) for ratio, row in pairs if ratio is not None]
    if not pairs:
        return Bar(workload, must, "-", None, aim_text)
    ratios = [ratio for ratio, _ in pairs]
    worst, where = min(pairs, key=lambda pair: pair[0])
    whole = stats.geometric_mean(ratios)
    reached = sum(ratio >= least for ratio in ratios)
    figure = f"least {worst:.2f}x ({_place(where)}), geometric mean {whole:.2f}x; "
    figure += f"{reached} of {len(ratios)} cells reach {least:g}x"
    met = reached == len(ratios) and (mean is None or whole >= mean)
    aimed = worst >= aim if aim else whole >= mean_aim if mean_aim else None
    missed = tuple(_missed(row, number, least, among) for number, row in pairs if number < least)
    return Bar(workload, must, figure, met, aim_text, aimed, missed)


def _missed(row, number, least, among):
    at_floor = number / row.floor_share(row.ours["seconds"])
    limit = f"{at_floor:.2f}x" + (", beyond the hardware" if at_floor < least else "")
    return Missed(row, f"{number:.2f}x", f"{least:g}x", limit, row.best_peer(among))


def _peak(workload, rows, aim, least=None):
    """Share of the peak at least `least` everywhere; without it there is the aim alone."""
    must = f">= {percent(least)} of the peak" if least else ""
    aim_text = f"{percent(aim)} of the peak"
    shares = [(row.paired_peak_share, row) for row in rows if row.ours]
    if not shares:
        return Bar(workload, must, "-", None, aim_text)
    worst, where = min(shares, key=lambda pair: pair[0])
    bound = least or aim
    reached = sum(share >= bound for share, _ in shares)
    figure = f"least {percent(worst)} ({_place(where)}); "
    figure += f"{reached} of {len(shares)} cells reach {percent(bound)}"
    whole = sum(row.peak_share(row.ours["seconds"]) >= bound for _, row in shares)
    figure += f" of the peak beside each turn, {whole} of the best peak of the run"
    met = worst >= least if least else None
    missed = tuple(
        Missed(row, percent(share), percent(least), percent(1), row.best_peer())
        for share, row in shares
        if least and share < least
    )
    return Bar(workload, must, figure, met, aim_text, worst >= aim, missed)


# ---- float32 --------------------------------------------------------------------------------


def _steps(rows):
    steps = _of(rows, "step")
    small = [row for row in steps if row.case.hidden <= 64]
    yield _against("streaming step, H <= 64", small, 4, aim=8)
    for above, hidden, least in ((64, 128, 2), (128, 256, 1.3), (256, 512, 1.15)):
        chosen = [row for row in steps if above < row.case.hidden <= hidden]
        bar = _against(f"streaming step, H <= {hidden}", chosen, least)
        shares = [row.floor_share(row.ours["seconds"]) for row in chosen if row.ours]
        if not shares:
            yield dataclasses.replace(bar, aim="the bandwidth floor")
            continue
        figure = f"{bar.figure}; floor / time at least {percent(min(shares))}"
        yield dataclasses.replace(
            bar, figure=figure, aim="the bandwidth floor", aimed=min(shares) >= 0.95
        )


def _sequence(rows):
    return _against("sequence", _of(rows, "sequence"), 1.0, mean=1.2, mean_aim=1.3)


def _batch(rows):
    chosen = _of(rows, "batch")
    yield _against("batch", chosen, 1.0)
    large = [row for row in chosen if row.case.batch >= 32 and row.case.hidden >= 256]
    yield _peak("batch, B >= 32, H >= 256", large, 0.95, least=0.90)


def _ragged(rows):
    ragged = _of(rows, "ragged")
    yield _proportional(ragged, _of(rows, "full"))
    yield _against("ragged batch / PyTorch", ragged, 3, among=["PyTorch"])
    yield _against("ragged batch / ONNX Runtime", ragged, 1.2, among=["ONNX Runtime"])


def _proportional(ragged, full):
    """Seconds a valid step of the ragged batch, over those of the batch without lengths."""
    workload, must = "ragged batch", "time proportional to valid steps within 15 %"
    whole = {(row.case.cell, row.threads): row for row in full if row.ours}
    found = []
    for row in ragged:
        other = whole.get((row.case.cell, row.threads))
        if row.ours and other:
            times = row.ours["seconds"] / other.ours["seconds"]
            steps = row.record["valid_steps"] / other.record["valid_steps"]
            found.append((times / steps, row))
    if not found:
        return Bar(workload, must, "-", None)
    worst, where = max(found, key=lambda pair: pair[0])
    figure = f"most {worst:.2f}x the time a valid step takes without lengths ({_place(where)})"
    return Bar(workload, must, figure, worst <= 1.15)


def _training(rows):
    for cell, mean in (("lstm", 1.15), ("gru", 1.3), ("rnn", 1.2)):
        chosen = _of(rows, "training", cell=cell)
        yield _against(f"training, {cell}", chosen, 1.05, mean=mean)
    large = [row for row in _of(rows, "training") if row.case.hidden >= 256]
    yield _peak("training, H >= 256", large, 0.90)


def _characters(rows):
    chosen = _of(rows, "characters", cell="lstm")
    yield _against("character model / PyTorch", chosen, 1.2, aim=1.35, among=["PyTorch"])
    low = _of(rows, "characters", "bfloat16")
    yield _against("character model, bfloat16 / PyTorch", low, 1.0, among=["PyTorch"])


# ---- low precision --------------------------------------------------------------------------


def _low_precision(rows):
    lstm = [*_of(rows, "step", "int8", cell="lstm"), *_of(rows, "sequence", "int8", cell="lstm")]
    yield _against("int8 LSTM step, T=100 / ONNX Runtime", lstm, 1.2, aim=2, among=["ONNX Runtime"])
    gru = _of(rows, "sequence", "int8", cell="gru", hidden=(512, 1024))
    gru += _of(rows, "step", "int8", cell="gru", hidden=1024)
    yield _against("int8 GRU step, T=100 / best of int8 and bfloat16", gru, 1.2, aim=2)
    yield from _errors(
        [row for row in rows if row.case.precision == "int8" and row.case.cell == "gru"]
    )
    for precision in LOW:
        yield _against(f"batch, {precision}", _of(rows, "batch", precision), 1.0, aim=1.15)
    for cell, least in (("lstm", 1.0), ("gru", 1.2)):
        chosen = _of(rows, "training", "bfloat16", cell=cell)
        yield _against(f"training, bfloat16, {cell} / PyTorch", chosen, least, among=["PyTorch"])


def _errors(rows):
    """Our largest error below 0.01, and below PyTorch's cell by cell."""
    workload, must = "int8 GRU, error", "largest difference from float32 below 0.01"
    closer = "below PyTorch's everywhere"
    errors = [(row.ours["error"], row) for row in rows if row.ours]
    if not errors:
        yield Bar(workload, must, "-", None)
        yield Bar(f"{workload} / PyTorch", closer, "-", None)
        return
    worst, where = max(errors, key=lambda pair: pair[0])
    yield Bar(workload, must, f"most {worst:.1e} ({_place(where)})", worst < 0.01)
    shares = [
        (e / row.best("PyTorch")[1]["error"], row) for e, row in errors if row.best("PyTorch")
    ]
    if not shares:
        yield Bar(f"{workload} / PyTorch", closer, "-", None)
        return
    share, where = max(shares, key=lambda pair: pair[0])
    figure = f"most {share:.2f}x PyTorch's ({_place(where)})"
    yield Bar(f"{workload} / PyTorch", closer, figure, share < 1)


# ---- against other C libraries: raced, or measured earlier, see constants.py ----------------


def _is_like_constants(measured):
    """Whether this machine computes as fast as the one of `constants.py`, within a tenth."""
    found = Ceilings.of_rows(measured.get("ceilings", []))
    return abs(found.peak("float32", 1) / constants.PEAK - 1) <= 0.1


def _pairs_figure(ratios):
    """`ratios` are (ratio, what, our seconds, theirs)."""
    return ", ".join(
        f"{what} {duration(ours)} / {duration(theirs)} = {ratio:.2f}x"
        for ratio, what, ours, theirs in ratios
    )


def _against_constants(workload, pairs, aim, alike):
    """`pairs` are (what, our seconds, theirs), ours may be None; judged on an `alike` machine."""
    must = "not slower at any size (constants measured earlier, not in this run)"
    ratios = [(theirs / ours, what, ours, theirs) for what, ours, theirs in pairs if ours]
    if not ratios:
        return Bar(workload, must, "-", None, f"{aim:g}x")
    worst = min(ratio for ratio, *_ in ratios)
    figure = _pairs_figure(ratios)
    if not alike:
        figure += "; this is another kind of machine: not judged"
        return Bar(workload, must, figure, None, f"{aim:g}x")
    return Bar(workload, must, figure, worst >= 1.0, f"{aim:g}x", worst >= aim)


def _rtneural(calls, alike):
    pairs = [
        (f"{call['cell']} {call['hidden']}", call["seconds"], theirs)
        for call in calls
        if call["kind"] == "step"
        for theirs in [constants.RTNEURAL_STEP[call["cell"], call["hidden"]]]
    ]
    return _against_constants("C step / RTNeural", pairs, 1.2, alike)


def _onednn(calls, alike):
    training = {
        f"H {call['hidden']} {call['threads']} thr": (
            call,
            constants.ONEDNN_GRU_TRAINING[call["hidden"], call["threads"]],
        )
        for call in calls
        if call["kind"] == "training"
    }
    yield _against_onednn("C GRU training B=32 T=50 / oneDNN", training, alike)
    steps = {
        f"H {call['hidden']}": (call, constants.ONEDNN_INT8_STEP[call["hidden"]])
        for call in calls
        if call["kind"] == "int8 step"
    }
    yield _against_onednn("C int8 LSTM step / oneDNN", steps, alike)


def _against_onednn(workload, calls, alike):
    """`calls` are {what: (row, seconds measured earlier)}: in turns where both were timed so."""
    raced = [
        (call["ratio"], what, call["seconds"], call["onednn"])
        for what, (call, _) in calls.items()
        if call.get("ratio")
    ]
    if not raced:
        pairs = [(what, call["seconds"], earlier) for what, (call, earlier) in calls.items()]
        return _against_constants(workload, pairs, 1.1, alike)
    worst, must = min(raced)[0], "not slower at any size"
    return Bar(workload, must, _pairs_figure(raced), worst >= 1.0, "1.1x", worst >= 1.1)


# ---- company and costs ----------------------------------------------------------------------


def _crowded(found):
    workload, must = "two threads beside a busy process", "<= 1.2x our own time on one thread"
    if not found:
        return Bar(workload, must, "-", None)
    worst = max(found, key=lambda row: row["slowdown"])
    figure = f"most {worst['slowdown']:.2f}x ({worst['name']})"
    return Bar(workload, must, figure, worst["slowdown"] <= 1.2)


def _footprint(found):
    rows = {row["name"]: row for row in found}
    ours, base = rows.get(OURS), rows.get("NumPy")
    both = ours and base
    seconds = ours["import"] - base["import"] if both else None
    resident = ours["resident"] - base["resident"] if both else None
    for workload, value, unit, bound, aim in (
        ("import over NumPy, ms", seconds, 1e-3, 30, 10),
        ("wheel, MB", ours and ours["wheel"], 1e6, 3, 1.5),
        ("resident memory over NumPy, MB", resident, 1e6, 15, None),
    ):
        must, aim_text = f"<= {bound:g}", f"{aim:g}" if aim else ""
        if value is None:
            yield Bar(workload, must, "-", None, aim_text)
            continue
        size = value / unit
        aimed = size <= aim if aim else None
        yield Bar(workload, must, digits(size), size <= bound, aim_text, aimed)
