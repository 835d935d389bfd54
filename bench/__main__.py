"""The command line of the race: `python -m bench`, from the repository's root."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

from bench import ceilings, crowded, drawn, engine_calls, footprint, machine, report
from bench.contestants import MODULES, OURS
from bench.quiet import Patience
from bench.race import Race
from bench.workloads import WORKLOADS, selected

RESULTS = Path(__file__).with_name("RESULTS.md")
SECONDS, QUICK_SECONDS = 2.0, 0.7


def parser():
    """The command line's options."""
    options = argparse.ArgumentParser(
        prog="python -m bench",
        description="Race rnncore against its peers and write the results as Markdown. "
        "Contestants that are not installed are reported as absent.",
    )
    options.add_argument(
        "--workload",
        action="append",
        choices=sorted(WORKLOADS),
        help="only this workload; may be repeated",
    )
    options.add_argument(
        "--cell",
        action="append",
        metavar="TEXT",
        help="only cases whose name has this in it, e.g. gru, H256, step-lstm-H64; may be repeated",
    )
    options.add_argument(
        "--contestant",
        action="append",
        choices=list(MODULES),
        help="only this contestant; may be repeated",
    )
    options.add_argument(
        "--threads",
        type=_threads,
        action="append",
        metavar="N",
        help="number of threads; may be repeated (default: 1 and 2)",
    )
    options.add_argument(
        "--quick", action="store_true", help="a few cases of each workload, less time for each"
    )
    options.add_argument(
        "--drawn",
        type=_count,
        metavar="N",
        help="instead of the table's cases N of shapes drawn at random; no bars, no calls from C",
    )
    options.add_argument("--seed", type=int, default=1, help="of --drawn (default 1)")
    options.add_argument(
        "--seconds",
        type=_seconds,
        help=f"budget of a case, about (default {SECONDS}, with --quick {QUICK_SECONDS})",
    )
    options.add_argument(
        "--patience",
        type=_minutes,
        default=0.0,
        metavar="MINUTES",
        help="begin a case when the machine is as fast as its ceilings, and repeat it if it was "
        "not so to the end, but wait no longer than this in all (default 0: do not look)",
    )
    options.add_argument(
        "--output",
        type=Path,
        default=RESULTS,
        help="the Markdown file (default bench/RESULTS.md); '-' prints it",
    )
    options.add_argument("--json", type=Path, help="also keep everything measured in this file")
    options.add_argument(
        "--render", type=Path, metavar="JSON", help="measure nothing, report what --json has kept"
    )
    options.add_argument(
        "--again",
        type=Path,
        metavar="JSON",
        help="take what --json has kept on this machine and race again those of its cases that "
        "were not quiet; their new turns replace the old ones, whatever they say",
    )
    options.add_argument(
        "--cases-only",
        action="store_true",
        help="neither calls from C, nor the busy process, nor import time and sizes; so it is also "
        "with --workload or --cell",
    )
    options.add_argument("--list", action="store_true", help="name the cases chosen, and stop")
    return options


def _threads(text):
    if text.isdigit() and 1 <= int(text) <= machine.cpu_count():
        return int(text)
    raise argparse.ArgumentTypeError(
        f"is {text}, expected 1 to {machine.cpu_count()}, the CPUs of this process"
    )


def _count(text):
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"is {text}, expected a whole number above 0")


def _number(text):
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _seconds(text):
    if 0 < _number(text) < float("inf"):
        return _number(text)
    raise argparse.ArgumentTypeError(f"is {text}, expected a number above 0")


def _minutes(text):
    if 0 <= _number(text) < float("inf"):
        return _number(text)
    raise argparse.ArgumentTypeError(f"is {text}, expected a number from 0 on")


def main(arguments=None):
    """Run the race."""
    options = parser().parse_args(arguments)
    if options.render:
        measured = json.loads(options.render.read_text(encoding="utf-8"))
        return _write(measured, options.output)
    if options.drawn:
        cases = drawn.cases(options.drawn, options.seed, options.workload, options.cell)
    else:
        cases = selected(options.workload, options.cell, options.quick)
    if not cases:
        raise SystemExit("bench: no case fits these options; --list shows the names")
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    return _write(measure(options, cases), options.output)


def measure(options, cases):
    """Everything the report is made from, as JSON can keep it.

    Ctrl-C ends the race early; what was measured until then is reported, and says so.
    """
    began = time.monotonic()
    threads = options.threads or [n for n in (1, 2) if n <= machine.cpu_count()]
    measured = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": "python -m bench " + " ".join(sys.argv[1:]),
        "machine": machine.describe(),
        "threads": sorted(set(threads)),
        "drawn": bool(options.drawn),
        "seconds": options.seconds or (QUICK_SECONDS if options.quick else SECONDS),
        "records": [],
    }
    if options.again:
        _continue(measured, options.again)
    earlier = measured.get("minutes", 0.0)

    def keep():
        measured["machine"]["load after"] = machine.load()
        measured["minutes"] = earlier + (time.monotonic() - began) / 60
        if options.json:
            options.json.write_text(json.dumps(measured, indent=1), encoding="utf-8")

    with ceilings.Gauge() as gauge:
        print("ceilings of the machine", file=sys.stderr, flush=True)
        best = gauge.best(measured["threads"])
        best = best.raised(ceilings.Ceilings.of_rows(measured.get("ceilings", [])))
        measured["ceilings"] = best.rows()
        patience = Patience(lambda count: gauge.now(count).figures, best.figures, options.patience)
        try:
            _race(measured, options, cases, patience, partial(_peak, gauge, best), keep)
        except KeyboardInterrupt:
            measured["command"] += " (interrupted)"
    keep()
    return measured


def _continue(measured, path):
    """Add what an earlier race on this machine has kept."""
    before = json.loads(path.read_text(encoding="utf-8"))
    for name, value in measured["machine"].items():
        was = before["machine"].get(name)
        if was != value and not name.startswith("load"):
            raise SystemExit(
                f"bench: --again is {path}, where {name} was {was}, here it is {value}"
            )
    ours = ("date", "command", "machine", "threads", "drawn", "seconds")
    measured |= {name: value for name, value in before.items() if name not in ours}
    measured["command"] = f"{before['command']}; {measured['command']}"


def _peak(gauge, best, threads, precision):
    """Operations a second at this moment."""
    return gauge.peak(best.bound(precision, threads), threads)


def _race(measured, options, cases, patience, peak, keep):
    """All cases on each number of threads, then what is not a case; `keep` after each."""
    names = [name for name in MODULES if not options.contestant or name in options.contestant]
    records, earlier = measured["records"], measured.get("waited", 0.0)
    places = {(r["name"], r["threads"]): k for k, r in enumerate(records)}
    for count in measured["threads"]:
        chosen = [case for case in cases if _is_due(records, places, case, count)]
        print(f"{len(chosen)} cases on {count} thread(s)", file=sys.stderr, flush=True)
        if not chosen:
            continue
        with Race(names, count, partial(peak, count)) as race:
            measured |= {"versions": race.versions, "missing": race.missing}
            for name, reason in race.missing.items():
                print(f"{name} is missing: {reason}", file=sys.stderr)
            for case in chosen:
                record = patience.race(partial(race.run, case, measured["seconds"]), count)
                place = places.setdefault((case.name, count), len(records))
                records[place : place + 1] = [record]
                measured["waited"] = earlier + patience.waited
                print(report.progress_line(record), file=sys.stderr, flush=True)
                keep()
    if OURS in names and not (
        options.cases_only or options.workload or options.cell or options.drawn
    ):
        _measure_the_rest(measured, names, patience)


def _is_due(records, places, case, threads):
    """Whether a case is still to be raced: it was not before, or not in quiet."""
    place = places.get((case.name, threads))
    return place is None or records[place]["quiet"] is False


def _measure_the_rest(measured, names, patience):
    """What is not a case: calls from C, a busy machine, what an import costs."""
    threads, seconds = measured["threads"], measured["seconds"]
    patience.wait(threads[-1])
    print("calls from C", file=sys.stderr, flush=True)
    version = engine_calls.onednn_version()
    measured["versions" if version else "missing"]["oneDNN, called from C"] = (
        version or "not installed"
    )
    measured["engine_calls"] = [
        call for count in threads for call in engine_calls.measure(count, seconds)
    ]
    if crowded.available():
        print("two threads beside a busy process", file=sys.stderr, flush=True)
        measured["crowded"] = crowded.measure(seconds)
    print("import time, memory, size", file=sys.stderr, flush=True)
    present = [name for name in names if name not in measured["missing"]]
    measured["footprint"] = footprint.measure(present)


def _write(measured, path):
    text = report.markdown(measured)
    if str(path) == "-":
        print(text)
    else:
        path.write_text(text, encoding="utf-8")
        print(f"written: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
