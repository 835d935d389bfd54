"""What a contestant costs before it computes anything: import time, memory, size on disk."""
# SPDX-License-Identifier: Apache-2.0

import io
import json
import os
import re
import statistics
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import rnncore
from bench.processes import environment

# Module and distribution of each contestant.
PACKAGES = {
    "rnncore": ("rnncore", "rnncore"),
    "NumPy": ("numpy", "numpy"),
    "PyTorch": ("torch", "torch"),
    "ONNX Runtime": ("onnxruntime", "onnxruntime"),
    "OpenVINO": ("openvino", "openvino"),
    "JAX": ("jax", "jax"),
}
IMPORTS = 7  # processes for the import time of each

PROGRAM = """
import time
began = time.perf_counter()
import {module}
seconds = time.perf_counter() - began
resident = 0
with open("/proc/self/status") as status:
    for line in status:
        if line.startswith("VmRSS"):
            resident = int(line.split()[1]) * 1024
import json
print(json.dumps([seconds, resident]))
"""


def measure(names):
    """Measure contestants; each is compared with NumPy, which all of them but few need.

    Returns
    -------
    list of dict
        name, `import` seconds and `resident` bytes after it, `installed` bytes with and `own` bytes
        without what it requires; for rnncore also `wheel` bytes.
    """
    imported = _imports([PACKAGES[name][0] for name in names])
    rows = []
    for name in names:
        module, distribution = PACKAGES[name]
        runs = imported[module]
        if not runs:
            continue
        own, installed = (
            (_our_size(), _our_size() + _size_with_needs("numpy")[1])
            if name == "rnncore"
            else _size_with_needs(distribution)
        )
        row = {"name": name, "own": own, "installed": installed}
        row["import"], row["resident"] = map(statistics.median, zip(*runs, strict=True))
        if name == "rnncore":
            row["wheel"] = _wheel_size()
        rows.append(row)
    return rows


def _imports(modules):
    """(seconds, resident bytes) of each import, the modules taking turns; [] if it fails."""
    found = {module: [] for module in modules}
    root = str(Path(rnncore.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    kept = {k: v for k, v in environment(1).items() if k != "PYTHONDONTWRITEBYTECODE"}
    for turn in range(IMPORTS + 1):
        for module in modules:
            program = PROGRAM.format(module=module)
            result = subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True,
                text=True,
                env={**kept, "PYTHONPATH": path},
            )
            if result.returncode == 0 and turn > 0:  # the first one fills the disk's cache
                found[module].append(json.loads(result.stdout.splitlines()[-1]))
    return found


def _our_files():
    """The package's files as an installation has them: Python and the extension."""
    folder = Path(rnncore.__file__).parent
    files = [*folder.rglob("*.py"), *folder.rglob("*.so"), *folder.rglob("*.pyd")]
    return folder, sorted(files)


def _our_size():
    return sum(path.stat().st_size for path in _our_files()[1])


def _wheel_size():
    """Size of a wheel of these files: a wheel is a zip archive of them, compressed."""
    folder, files = _our_files()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in files:
            wheel.write(path, path.relative_to(folder.parent))
    return len(archive.getvalue())


def _size_with_needs(distribution):
    """Bytes of a distribution's files alone, and with all that it requires here."""
    seen, left, sizes = set(), [distribution], []
    while left:
        name = _canonical(left.pop(0))
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # required under other conditions than here
        sizes.append(sum(_bytes(found.locate_file(file)) for file in found.files or ()))
        for need in found.requires or ():
            if "extra ==" not in need:
                left.append(re.match(r"[A-Za-z0-9._-]+", need)[0])
    return sizes[0], sum(sizes)


def _canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def _bytes(path):
    path = Path(path)
    return path.stat().st_size if path.is_file() else 0
