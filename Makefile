# Doors to the project; how it is built stands in setup.py and pyproject.toml.
# SPDX-License-Identifier: Apache-2.0
#
#   make demo    environment, build, then `rnncore demo`     (DEMO="--seconds 30" adds options)
#   make test    environment, build, then the test suite     (TEST="-k lstm" adds options)
#   make bench   the race of bench/ against what is installed  (BENCH="--quick" adds options)
#   make lib     the C library alone, without Python, into build/lib
#   make docs    where the documents are
#   make clean   remove what was built, and the environment
#
# PYTHON=python3.12 chooses the interpreter that the environment is made with.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BUILD_NEEDS := "setuptools>=77" "cython>=3.1" "numpy>=2.0"
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := $(shell find csrc rnncore -name '*.[ch]' -o -name '*.inc' -o -name '*.txt' -o -name '*.p[yx][xdi]')

.PHONY: demo test bench lib docs clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

demo: $(VENV)/.demo $(VENV)/.built
	$(BIN)/rnncore demo $(DEMO)

test: $(VENV)/.test $(VENV)/.built
	$(BIN)/python -m pytest $(TEST)

bench: $(VENV)/.installed $(VENV)/.built
	$(BIN)/python -m bench $(BENCH)

lib:
	@command -v cmake >/dev/null || { echo "make: there is no cmake" >&2; exit 1; }
	cmake -S csrc -B build/lib -DCMAKE_BUILD_TYPE=Release
	cmake --build build/lib --parallel 2

docs:
	@echo "README.md, CONTRIBUTING.md, CHANGELOG.md and docs/*.md:"
	@ls docs/*.md

clean:
	rm -rf build dist *.egg-info $(VENV) rnncore/_engine.c rnncore/_engine*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

# The environment, with what a build needs. Its checks say what a bare machine lacks.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "make: $(PYTHON) is older than Python 3.10; name another with PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "make: $(PYTHON) cannot make virtual environments (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; h = os.path.join(sysconfig.get_path("include"), "Python.h"); sys.exit(not os.path.exists(h))' || \
	    { echo "make: Python.h is missing (Debian: apt install python3-dev)" >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null || { echo "make: there is no C compiler $${CC:-cc}" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(BUILD_NEEDS)
	touch $@

# Installed in place: Python files are used as they stand. A door's extras come on top.
$(VENV)/.installed: $(VENV)/.made pyproject.toml setup.py
	$(PIP) --no-build-isolation -e .
	touch $@ $(VENV)/.built

$(VENV)/.demo: $(VENV)/.installed
	$(PIP) 'rnncore[blas,cli,plot]'
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) 'rnncore[test]'
	touch $@

# The extension again when a source changed since.
$(VENV)/.built: $(SOURCES)
	$(BIN)/python setup.py --quiet build_clib build_ext --inplace
	touch $@
