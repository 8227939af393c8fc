# Two commands: `make demo` streams real files through a real server, `make test` runs what must hold before a merge.
PYTHON  ?= python3
VENV    ?= .venv
WORKERS ?= 3
STAMP   := $(VENV)/.installed
PYTEST  := $(VENV)/bin/pytest
SHARED  := $(PYTEST) -n $(WORKERS) --dist worksteal

.PHONY: demo lint types test pytest test-all long test-lowest soak bench clean

$(STAMP): pyproject.toml compat/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Mofka needs Python 3.11 or newer, found " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) --editable '.[test]' --editable ./compat
	touch $@

demo: $(STAMP)
	$(VENV)/bin/python examples/demo.py

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/mypy

test: lint types pytest

# Several tests at a time, and then, one by one, those that measure what others would disturb.
pytest: $(STAMP)
	$(SHARED) -m 'not (alone or long or soak)'
	$(PYTEST) -m 'alone and not (long or soak)'

# And more of what `make test` shows: each benchmark, and the documents' programs.
test-all: test long

long: $(STAMP)
	$(PYTEST) -m 'long and not soak'

# With the lowest version of each library that pyproject.toml allows; for Python 3.11, the lowest as well.
test-lowest:
	$(PYTHON) tests/lowest.py > .lowest.txt
	$(MAKE) pytest VENV=.venv-lowest CONSTRAINTS='--constraint .lowest.txt'

soak: $(STAMP)
	$(PYTEST) -m soak
	$(SHARED) -m 'hypothesis and not (alone or soak)' --hypothesis-profile thorough --timeout 1800

bench: $(STAMP)
	$(VENV)/bin/python -m benchmarks.run

clean:
	rm -rf $(VENV) .venv-lowest .lowest.txt
