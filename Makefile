# The Python that creates .venv. Everything else comes from the locked requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# The tests start hundreds of processes, and each would compile all modules.
unexport PYTHONDONTWRITEBYTECODE
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header $(ARGS)

.PHONY: run test faults check interop compose-test fuzz bench chaos lock release clean

run: $(VENV)/requirements-embedded ## Run everything on this machine, with sample data and simulated gateways
	@$(BIN)/visitor dev $(ARGS)

test: check ## Run all checks, and all tests but those of `make faults`, in three processes
	$(BIN)/python -m pytest --numprocesses 3 --ignore tests/chaos $(ARGS)

faults: $(VENV)/requirements-dev ## Run the tests that kill, freeze and flood processes and servers, in three processes
	$(BIN)/python -m pytest --numprocesses 3 tests/chaos $(ARGS)

check: $(VENV)/requirements-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

interop: $(VENV)/requirements-dev ## Run programs of other languages against the service; they need Java, Maven, Node.js, Go and Chromium
	$(BIN)/python -m pytest interop --timeout 600 $(ARGS)

compose-test: $(VENV)/requirements-dev ## Test docker-compose.yml with Docker: start, calls, restart after a kill, stop
	$(BIN)/python -m pytest --capture=no tests/compose/*.py $(ARGS)

fuzz: $(VENV)/requirements-dev ## Send calls generated from the OpenAPI document for half an hour
	VISITOR_FUZZ_SECONDS=$${VISITOR_FUZZ_SECONDS:-1800} $(BIN)/python -m pytest tests/contract/test_fuzz.py $(ARGS)

bench: $(VENV)/requirements-dev ## Compare the service with its peers, as ratios
	$(BIN)/python -m benchmarks $(ARGS)

chaos: $(VENV)/requirements-dev ## Run the service under faults for an hour, and check its guarantees
	$(BIN)/python -m chaos $(ARGS)

lock: $(VENV)/requirements-embedded ## Lock the requirements; to raise versions: make lock ARGS=--upgrade
	$(COMPILE) --output-file requirements.txt pyproject.toml
	$(COMPILE) --output-file requirements-embedded.txt --constraint requirements.txt --extra embedded pyproject.toml
	$(COMPILE) --output-file requirements-dev.txt --constraint requirements-embedded.txt --extra embedded --extra test pyproject.toml
	$(COMPILE) --output-file requirements-uv.txt --group uv
	$(COMPILE) --output-file examples/python/requirements.txt --constraint requirements-dev.txt examples/python/requirements.in
	$(BIN)/python tools/lock_kafka.py

$(VENV)/requirements-%: requirements-%.txt requirements-uv.txt pyproject.toml tools/install.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; name it with: make PYTHON=python3.12 …")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing the locked requirements into $(VENV)"
	@$(BIN)/python tools/install.py $<
	@touch $@

release: $(VENV)/requirements-dev ## Write the Avro schemas of the version in pyproject.toml to schemas/releases
	$(BIN)/python -m tools.release

clean:
	rm -rf $(VENV) .visitor build interop/*/target interop/*/node_modules interop/serializers/*/target interop/serializers/*/node_modules examples/*/.venv examples/*/target examples/*/node_modules *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
