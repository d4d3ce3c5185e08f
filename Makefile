# Every target sets up .venv itself; a second run installs nothing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: quick-start test lab bench format pins audit clean

quick-start: $(VENV)/.ready
	$(BIN)/python -m quick_start

# Tests that keep one core busy, such as GPU kernels in an interpreter, run side by side. The others
# use all cores, or measure, or are in a hurry; they run even where one of the first fails.
ONE_CORE := $(wildcard tests/test_*_cuda.py $(patsubst %,tests/test_%.py,\
	analysis bombs charts facts foreign_* fuzz settings))

test: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 $(ONE_CORE); first=$$?; \
	$(BIN)/python -m pytest --durations 20 $(ONE_CORE:%=--ignore=%) && exit $$first

lab: $(VENV)/.ready
	$(BIN)/jupyter lab quick-start.ipynb

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-output --keep-count --keep-id quick-start.ipynb notebooks/*.ipynb

# After a change of requirements.txt or pyproject.toml: takes the newest versions that they allow.
pins:
	rm -rf build/pins
	$(PYTHON) -m venv build/pins
	build/pins/bin/python -m pip install --quiet -r requirements.txt --editable '.[dev,cluster]'
	build/pins/bin/python -m tools.pins

audit: $(VENV)/.ready-dev
	$(BIN)/python -m tools.audit

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Splatbook needs Python 3.11 or newer; $(PYTHON) is {v.major}.{v.minor}. Choose another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: requirements.txt pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,cluster]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
