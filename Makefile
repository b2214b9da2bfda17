# quickstart and test set everything up by themselves; the second time in seconds
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: quickstart test test-services check format bench clean

quickstart: $(READY)
	$(BIN)/rayfield run quickstart

test: $(READY)
	$(BIN)/python -m pytest -m "not services"

test-services: $(READY)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[services]'
	$(BIN)/python -m pytest -m services

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_walls.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m tests.benchmarks.lacking
	for name in tests/benchmarks/[a-z]*.py; do $(BIN)/python -m tests.benchmarks.$$(basename $$name .py); done

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,features]'
	touch $@

clean:
	rm -rf .venv .rayfield build *.egg-info
