# Two targets do all the set-up on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The aws command pins its own botocore, which would clash with boto3's: an environment of its own.
CLIENTS := .venv-clients

# The first seed of a simulation: another with every commit, the same for all of its runs.
SEED ?= $(shell git rev-parse --short=7 HEAD 2>/dev/null | xargs -I{} printf '%d' 0x{} 2>/dev/null || echo 1)
SEEDS ?= 100

.PHONY: run test check unit cluster sim mutants hostile soak bench fuzz clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(CLIENTS)/installed:
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --disable-pip-version-check 'awscli==1.45.11'
	touch $@

# Where the ports are taken: make run PORT=19000
run: $(VENV)/installed
	$(BIN)/pinfold up $(if $(PORT),--base-port $(PORT))

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/installed
	$(BIN)/pytest -m "not cluster"

cluster: $(VENV)/installed $(CLIENTS)/installed
	$(BIN)/pytest -m cluster

sim: $(VENV)/installed
	$(BIN)/pinfold sim run --seed $(SEED) --seeds $(SEEDS) --twice

mutants: $(VENV)/installed
	$(BIN)/python tests/mutants/run.py $(MUTANTS)

# Hostile clients as in `make cluster`, and the large bucket at its full size: some minutes.
hostile: $(VENV)/installed
	PINFOLD_HOSTILE_KEYS=200000 $(BIN)/pytest -m cluster --timeout 1800 -s tests/hostile

# Load, kills and stops on real processes, then everything acknowledged is verified.
soak: MINUTES = 20
soak: $(VENV)/installed
	$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(SOAK_SEED),--seed $(SOAK_SEED))

test: check unit sim cluster

bench: $(VENV)/installed
	$(BIN)/python -m bench

# Every target for so many minutes; what fails is kept in tests/fuzz/corpus.
MINUTES ?= 1
fuzz: $(VENV)/installed
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(TARGETS)

clean:
	rm -rf $(VENV) $(CLIENTS) .mypy_cache .ruff_cache .pytest_cache .hypothesis
