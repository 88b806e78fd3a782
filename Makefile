# Python of the environment; everything else comes from the locked requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: run test check compose-test fuzz bench lock clean

run: $(VENV)/installed ## Everything on this machine, with sample data and a simulated gateway
	@$(BIN)/visitor dev $(ARGS)

test: check ## All checks and tests; the tests in two processes side by side
	$(BIN)/python -m pytest --numprocesses 2 $(ARGS)

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

compose-test: $(VENV)/installed ## docker-compose.yml with Docker: up, calls, what is killed comes back, down
	$(BIN)/python -m pytest --capture=no tests/compose/lifecycle.py $(ARGS)

fuzz: $(VENV)/installed ## Half an hour of calls made up from the OpenAPI document
	VISITOR_FUZZ_SECONDS=$${VISITOR_FUZZ_SECONDS:-1800} $(BIN)/python -m pytest tests/contract/test_fuzz.py $(ARGS)

bench: $(VENV)/installed ## The service beside its peers, as ratios
	$(BIN)/python -m benchmarks $(ARGS)

lock: $(VENV)/installed ## Resolve the requirements anew
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-find-links --no-header --output-file requirements.txt pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-find-links --no-header --constraint requirements.txt --extra embedded --extra test --extra build --output-file requirements-dev.txt pyproject.toml

$(VENV)/installed: requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; name it with: make PYTHON=python3.12 …")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing the locked requirements into $(VENV) (a minute or two, once)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) .visitor build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
