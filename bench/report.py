"""RESULTS.md: everything a race has measured, lost cells as well as won ones."""
# SPDX-License-Identifier: Apache-2.0

import collections

from bench import agreement, bars, results
from bench.contestants import MODULES, OURS
from bench.quiet import QUIET
from bench.tables import digits, duration, megabytes, percent, ratio, table
from bench.workloads import PRECISIONS, WORKLOADS

PEERS = [name for name in MODULES if name != OURS]


def progress_line(record):
    """One case while the race runs."""
    times = [f"{name} {duration(r['seconds'])}" for name, r in record["results"].items()]
    times += [f"{name} VOID ({reason})" for name, reason in record["void"].items()]
    if OURS in record["absent"]:
        times.append(f"{OURS}: {record['absent'][OURS]}")
    return f"{record['threads']} thr {record['name']}: {', '.join(times)}"


def markdown(measured):
    """The whole report."""
    found = results.rows(measured)
    parts = ["# Results of the race", _head(measured), _ceilings(measured)]
    for precision in PRECISIONS:
        for workload, title in WORKLOADS.items():
            chosen = [
                row
                for row in found
                if row.case.workload == workload and row.case.precision == precision
            ]
            if chosen:
                suffix = "" if precision == "float32" else f", {precision}"
                if measured.get("drawn"):  # these have shapes of their own
                    title = title.partition(" (")[0]
                parts += [f"## {title}{suffix}", _race_table(chosen)]
                if workload == "step":
                    parts.append(_latency_table(chosen))
                if workload == "characters":
                    parts.append(_tokens_table(chosen))
    parts.append(_lost(found))
    parts += [_engine_calls(measured), _crowded(measured), _footprint(measured), _not_raced(found)]
    if not measured.get("drawn"):
        parts.append("## Bars\n\n" + bars.markdown(bars.evaluate(found, measured)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(measured):
    facts = dict(measured["machine"])
    lines = [
        f"Written by `{measured['command'].strip()}`, {measured['date']}; "
        f"{measured['minutes']:.0f} minutes. How to read it: [README.md](README.md).",
        "",
        table(["machine", ""], facts.items(), left=2),
        "",
        table(
            ["contestant", "version"],
            [*measured.get("versions", {}).items(), *measured.get("missing", {}).items()],
            left=2,
        ),
        "",
        f"Threads: {', '.join(map(str, measured['threads']))}. Budget of a case: "
        f"{measured['seconds']:g} s. Times are medians of turns. A ratio is the median, turn by "
        "turn, of the best peer's time over ours: below 1, in bold, that peer is faster.",
        *_patience(measured),
    ]
    return "\n".join(lines)


def _patience(measured):
    """How quiet the machine was, if anybody looked."""
    looked = [record["quiet"] for record in measured["records"] if record.get("quiet") is not None]
    if looked:
        yield ""
        yield (
            f"Before and after {sum(looked)} of {len(looked)} cases the machine computed and read "
            f"at {QUIET:.0%} of its ceilings or more; waiting for that, and cases that were raced "
            f"again, took {measured['waited'] / 60:.0f} minutes."
        )


def _ceilings(measured):
    found = collections.defaultdict(dict)
    for name, threads, figure in measured["ceilings"]:
        found[name][threads] = figure
    rows = []
    for name, figures in found.items():
        if name == "barrier":
            text, values = "barrier, ns", {t: 1e9 / f for t, f in figures.items()}
        elif name.startswith("read_"):
            size = int(name.removeprefix("read_")) // 1024
            size = f"{size} KiB" if size < 1024 else f"{size // 1024} MiB"
            text, values = f"read {size} a thread, GB/s", {t: f / 1e9 for t, f in figures.items()}
        else:
            text, values = f"{name}, Gop/s", {t: f / 1e9 for t, f in figures.items()}
        rows.append([text, *(digits(values[t]) if t in values else "-" for t in _threads(found))])
    head = ["ceiling", *(f"{t} thread{'s' if t > 1 else ''}" for t in _threads(found))]
    return "## Ceilings of this machine, measured in the same run\n\n" + table(head, rows)


def _threads(found):
    return sorted({threads for figures in found.values() for threads in figures})


def _race_table(chosen):
    """One row a case and number of threads; a contestant's column has its fastest variant."""
    raced = {result["contestant"] for row in chosen for result in row.record["results"].values()}
    peers = [name for name in PEERS if name in raced]
    precision = chosen[0].case.precision
    trains = chosen[0].case.trains
    head = ["case", "threads", OURS, "of peak"]
    head += [] if trains else ["weights, GB/s"]
    head += ["floor / time", *peers, "best peer", "ratio"]
    head += [] if precision == "float32" else ["our error", "peer's error"]
    rows = []
    for row in chosen:
        cells = [row.case.name, row.threads]
        seconds = row.ours["seconds"] if row.ours else None
        cells += [_mine(row, seconds), _peak_share(row, seconds)]
        if not trains:
            cells.append(_weights(row, seconds))
        cells.append(percent(row.floor_share(seconds)) if seconds else "-")
        cells += [_theirs(row, name) for name in peers]
        peer = row.best_peer()
        cells += [peer[0] if peer else "-", ratio(row.ratio())]
        if precision != "float32":
            cells += [f"{r['error']:.1e}" if r else "-" for r in (row.ours, peer and peer[1])]
        rows.append(cells)
    case = chosen[0].case
    agreed = f"Everybody's {agreement.kind(case)} agree within {agreement.tolerance(case):.0e}."
    return table(head, rows) + "\n\n" + agreed


def _mine(row, seconds):
    if seconds:
        return duration(seconds)
    if OURS in row.record["void"]:
        return "void"
    return "not available" if OURS in row.record["absent"] else "-"


def _peak_share(row, seconds):
    """Of the run's best peak; where each turn had one beside it, in parentheses of that."""
    if not seconds:
        return "-"
    whole = percent(row.peak_share(seconds))
    return f"{whole} ({percent(row.paired_peak_share)})" if "peaks" in row.ours else whole


def _theirs(row, name):
    found = row.best(name)
    if found:
        return duration(found[1]["seconds"])
    return "void" if name in row.record["void"] else "-"


def _weights(row, seconds):
    if not seconds:
        return "-"
    speed, share = row.weight_speed(seconds)
    return f"{digits(speed / 1e9)} ({percent(share)})"


def _latency_table(chosen):
    """Single calls of the streaming step."""
    columns = ("first", "p50", "p99", "p99.9")
    head = ["single calls", "threads", *(f"{OURS} {c}" for c in columns), "best peer"]
    head += list(columns)
    rows = []
    for row in chosen:
        peer = row.best_peer()
        sides = [row.ours, peer[1] if peer else None]
        first, second = (
            [duration((side or {}).get(column)) for column in columns] for side in sides
        )
        rows.append([row.case.name, row.threads, *first, peer[0] if peer else "-", *second])
    return table(head, rows)


def _tokens_table(chosen):
    head = ["tokens a second", "threads", OURS, *PEERS]
    rows = []
    for row in chosen:
        tokens = row.case.steps * row.case.batch
        found = [row.best(name) for name in (OURS, *PEERS)]
        cells = [f"{tokens / f[1]['seconds']:,.0f}" if f else "-" for f in found]
        rows.append([row.case.name, row.threads, *cells])
    return table(head, rows)


def _lost(found):
    """Every cell in which a peer is faster, and how far both are from the floor."""
    pairs = [(row.ratio(), row) for row in found]
    lost = [(number, row) for number, row in pairs if number is not None and number < 1]
    raced = sum(number is not None for number, _ in pairs)
    if not raced:
        return ""
    title = f"## Lost: {len(lost)} of {raced} cells\n\n"
    if not lost:
        return title + "No peer was faster than us in any cell."
    rows = []
    for number, row in sorted(lost, key=lambda pair: pair[0]):
        name, peer = row.best_peer()
        shares = [percent(row.floor_share(side["seconds"])) for side in (row.ours, peer)]
        cells = [row.case.name, row.threads, name, ratio(number), row.floors.bound, *shares]
        rows.append(cells)
    head = ["case", "threads", "faster", "ratio", "larger floor", "floor / our time", "theirs"]
    return title + table(head, rows)


def _engine_calls(measured):
    """The engine called from C."""
    rows = [
        [
            f"{call['kind']} {call['cell']}" + (" B=32 T=50" * (call["kind"] == "training")),
            call["hidden"],
            call["threads"],
            duration(call["seconds"]) if call["seconds"] else "not available",
            duration(call["onednn"]) if "onednn" in call else "-",
            ratio(call["ratio"]) if "ratio" in call else "-",
        ]
        for call in measured.get("engine_calls", [])
    ]
    if not rows:
        return ""
    head = ["call", "H", "threads", OURS, "oneDNN", "ratio"]
    return "## The engine called from C\n\n" + table(head, rows)


def _crowded(measured):
    """Two threads beside a busy process."""
    rows = [
        [row["name"], duration(row["one"]), duration(row["two"]), f"{row['slowdown']:.2f}x"]
        for row in measured.get("crowded", [])
    ]
    if not rows:
        return ""
    head = ["case", f"{OURS}, 1 thread", "2 threads", "2 threads take"]
    title = "## Two threads with another busy process on the machine\n\n"
    return title + table(head, rows)


def _footprint(measured):
    """Import time, memory, size."""
    found = measured.get("footprint", [])
    if not found:
        return ""
    head = ["", "import, ms", "resident after it, MB", "its own files, MB", "with needs, MB"]
    rows = [
        [
            row["name"],
            digits(1e3 * row["import"]),
            *(megabytes(row[key]) for key in ("resident", "own", "installed")),
        ]
        for row in found
    ]
    text = "## Import time, memory, size\n\n" + table(head, rows)
    for row in found:
        if "wheel" in row:
            text += f"\n\nThe files of {row['name']}'s wheel, compressed: "
            text += f"{megabytes(row['wheel'])} MB."
    return text


def _not_raced(found):
    """Who did not take part where, and why."""
    reasons = collections.defaultdict(set)
    for row in found:
        for kind in ("absent", "void"):
            for name, reason in row.record[kind].items():
                reasons[kind, name, reason].add(row.case.name)
    rows = [
        [name, "void" if kind == "void" else "did not take part", reason, _listed(names)]
        for (kind, name, reason), names in sorted(reasons.items())
    ]
    if not rows:
        return ""
    return "## Not raced\n\n" + table(["contestant", "", "why", "cases"], rows, left=4)


def _listed(names):
    names = sorted(names)
    if len(names) <= 3:
        return ", ".join(names)
    return f"{len(names)}, e.g. {names[0]}"
