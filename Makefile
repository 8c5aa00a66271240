# `make run` starts the service, `make test` runs the tests; both need Python 3.11 or newer, make and a C library, and install the rest.
#
#   make run                                  the demo model, every GPU (or one CPU worker), port 8000
#   make run MODEL=/models/Wan2.2-T2V GPUS=0-7 PORT=9000
#   make PYTHON=/usr/bin/python3.12 run       another interpreter
#
# An empty PORT, GPUS or MODEL leaves the decision to ZOETROPE_*, zoetrope.toml and the defaults (8000, auto, the demo model), in that order.

PYTHON ?= python3
PORT   ?=
GPUS   ?=
MODEL  ?=

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
DEMO := workers/demo_model/model_index.json

# pip says nothing while it unpacks, which takes minutes with torch: a line now and then says that it goes on. What it fetched is kept.
define install
@( while sleep 20 >/dev/null 2>&1; do echo "still installing: $$(du -sh $(VENV) 2>/dev/null | cut -f1) in $(VENV) so far"; done ) & ticker=$$!; \
trap 'kill $$ticker 2>/dev/null' EXIT; \
$(PIP) --editable '$(1)' || { echo "the install failed: the lines above say why; the same command goes on from here" >&2; exit 1; }
endef

.PHONY: run test test-ray chaos lint bench bench-all bench-baseline rooms screenshots setup setup-dev docs clean help
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

run: export ZOETROPE_PORT := $(or $(PORT),$(ZOETROPE_PORT))
run: export ZOETROPE_GPUS := $(or $(GPUS),$(ZOETROPE_GPUS))
run: export ZOETROPE_MODEL := $(or $(MODEL),$(ZOETROPE_MODEL))
run: setup ## start broker, workers and edge (PORT=8000 GPUS=auto MODEL=DIRECTORY)
	@test -f $(DEMO) || { echo "$(DEMO) is missing: the demo model comes with the repository, restore it with git" >&2; exit 1; }
	@PATH="$(CURDIR)/$(BIN):$$PATH" exec $(BIN)/python -m zoetrope serve

# A test that fails is run once more, alone: a machine that stands still for seconds fails a test of sockets, and one that fails for a reason
# fails again. What passes the second time is a fault all the same, to be mended, in the test or in what it tests.
# Those of real time come first and by themselves: beside tests that compute they would be late.
# Compiled modules are kept whatever the environment says: the tests start some hundred processes, and each would compile all it imports.
test: export PYTHONDONTWRITEBYTECODE :=
test: setup-dev ## run all tests on two processors: those of real time, then the others
	@failed=0; \
	tests() { $(BIN)/python -m pytest --real-time "$$@"; }; \
	together() { tests "$$1" -n 2 --dist loadfile --no-loadscope-reorder || { \
	  echo "once more, alone, the tests that failed:"; tests "$$1" --last-failed --last-failed-no-failures none || failed=1; }; }; \
	together only; together without; \
	exit $$failed

# Ray is installed beside the rest, whose packages it sees: 270 MB that nothing else needs.
test-ray: setup-dev ## run the tests of pools on a Ray cluster, in .venv-ray
	@test -x .venv-ray/bin/python || $(BIN)/python -m venv .venv-ray
	@echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > "$$(.venv-ray/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zoetrope.pth"
	.venv-ray/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt 'ray>=2.60,<3'
	.venv-ray/bin/python -m pytest tests/ray -n 2 --dist loadfile

chaos: setup-dev ## break everything under load for a minute, and judge (SECONDS=60 SEED=NUMBER)
	@mkdir -p bench-results
	$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED)) --json bench-results/chaos.json

lint: setup-dev ## check format, lint and types
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

bench: setup ## measure the broker: table, bench-results/broker.json and broker.png
	@mkdir -p bench-results
	$(BIN)/python -m bench broker --json bench-results/broker.json --plot bench-results/broker.png

bench-all: setup ## measure everything: docs/benchmarks.md and its pictures
	$(BIN)/python -m bench all --out docs/benchmarks.md

bench-baseline: setup-dev ## take the counts of now as the ones that tests/bench/test_gate.py holds
	UPDATE_BENCH_BASELINE=1 $(BIN)/python -m pytest tests/bench/test_gate.py

rooms: ## print the rooms of the code and the arrows between them, from the imports
	@$(PYTHON) -m scripts.rooms

screenshots: setup-dev ## take the pictures of the web page in docs/images (needs chromium)
	$(BIN)/python scripts/screenshots.py

docs: setup-dev ## write the generated parts of docs/ again
	$(BIN)/python scripts/make_docs.py

setup: $(VENV)/.installed ## make .venv and install what the service needs

setup-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Zoetrope needs Python 3.11 or newer and \"$(PYTHON)\" is not; name another: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV): the first install takes some minutes"; $(PYTHON) -m venv $(VENV); }
	@echo "installing what the service needs into $(VENV)"
	$(call install,.[serve])
	@wanted=$$($(BIN)/python scripts/torchvision_wanted.py); [ -z "$$wanted" ] || $(PIP) --no-deps "$$wanted" || \
	  echo "torchvision could not be installed: the few models that need it will say so when they are loaded" >&2
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing what the tests need into $(VENV)"
	$(call install,.[dev])
	@touch $@

clean: ## remove .venv, caches and build output (jobs and videos in .zoetrope stay)
	rm -rf $(VENV) .venv-ray build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis .coverage bench-results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
