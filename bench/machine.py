"""What the race ran on: machine, system, versions."""
# SPDX-License-Identifier: Apache-2.0

import os
import platform
import subprocess
from pathlib import Path


def describe():
    """Return facts about the machine as a dict of texts in order."""
    facts = {
        "CPU": cpu_model(),
        "CPUs of this process": str(cpu_count()),
        "caches of a CPU": ", ".join(f"{name} {size}" for name, size in caches()),
        "memory": memory(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": platform.python_version(),
        "C compiler": compiler(),
        "load before": load(),
    }
    return {name: value for name, value in facts.items() if value}


def cpu_model():
    """Name of the CPU."""
    for line in _text("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_count():
    """CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def caches():
    """(name, size) of the data caches of the first CPU, as Linux tells."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if _text(folder / "type").strip() != "Instruction":
            name = f"L{_text(folder / 'level').strip()}"
            found.append((name, _text(folder / "size").strip() + "iB"))
    return found


def memory():
    """Size of the memory."""
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemTotal"):
            return f"{int(line.split()[1]) / 2**20:.0f} GiB"
    return ""


def compiler():
    """First line of what the C compiler says of itself."""
    try:
        command = [os.environ.get("CC", "cc"), "--version"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return output.splitlines()[0]


def load():
    """Processes that wanted a CPU in the last minute: about 0 where nothing else runs."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""


def _text(path):
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
