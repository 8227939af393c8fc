# Two commands: `make demo` streams real files through a real server, `make test` runs what must hold before a merge.
PYTHON  ?= python3
WORKERS ?= 2
VENV    := .venv
STAMP   := $(VENV)/.installed
PYTEST  := $(VENV)/bin/pytest
SHARED  := $(PYTEST) -n $(WORKERS) --dist worksteal

.PHONY: demo lint types test test-all soak bench clean

$(STAMP): pyproject.toml compat/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Mofka needs Python 3.11 or newer, found " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' --editable ./compat
	touch $@

demo: $(STAMP)
	$(VENV)/bin/python examples/demo.py

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/mypy

# Several tests at a time, and then, one by one, those that measure what others would disturb.
test: lint types
	$(SHARED) -m 'not (alone or long or soak)'
	$(PYTEST) -m 'alone and not (long or soak)'

test-all: test
	$(SHARED) -m 'long and not (alone or soak)'
	$(PYTEST) -m 'long and alone and not soak'

soak: $(STAMP)
	$(PYTEST) -m soak

bench: $(STAMP)
	$(VENV)/bin/python -m benchmarks.run

clean:
	rm -rf $(VENV)
