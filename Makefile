# Every target works in a fresh clone: it first installs what it needs in .venv, and says so.
# PYTHON=/path/to/python3.12 chooses the interpreter. ARGS="..." is passed on, as in: make test ARGS="tests/unit -x"

.DEFAULT_GOAL := help
.PHONY: help run test check coverage mutate bench train schema proto lock clean
MAKEFLAGS += --no-print-directory
export PYTHON

bin     := .venv/bin
for_run := @sh deploy/setup.sh requirements.lock
for_dev := @sh deploy/setup.sh requirements-dev.lock
code    := router tests proto
rooms   := core config inference signals cache extproc telemetry admin runtime envoy devstack cli evaluation training
untimed := not time_grows    # measuring slows every line down
DATA    ?= ../shared/data
OUT     ?= router/models

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-16s%s\n", $$1, $$2 }'

run:  ## start Envoy, the router and mock vLLM backends on this machine; Ctrl-C stops them
	$(for_run)
	@exec $(bin)/semantic-router up $(ARGS)

test:  ## run the unit, contract and end-to-end tests
	$(for_dev)
	@UNIT_EXAMPLES=$${UNIT_EXAMPLES:-100} exec $(bin)/python -m pytest -n 2 --dist loadfile $(ARGS)

check:  ## check lint, format and types
	$(for_dev)
	$(bin)/ruff check $(code)
	$(bin)/ruff format --check $(code)
	$(bin)/mypy $(ARGS)

coverage:  ## lines and branches of router/ that the unit tests run: make coverage ARGS="tests/unit tests/contract"
	$(for_dev)
	$(bin)/python -m pip install --quiet --no-build-isolation --editable '.[measure]'
	$(bin)/python -m pytest -q -n 2 --dist loadfile --cov --cov-report= -k "$(untimed)" $(or $(ARGS),tests/unit)
	@$(bin)/python -m coverage report --skip-covered --sort=cover
	@for room in $(rooms); do printf '%-12s %6s %%\n' $$room \
	  $$($(bin)/python -m coverage report --include="router/$$room/*" --format=total --precision=1); done

mutate:  ## changes of the pure modules that the unit tests notice, of a fixed sample: make mutate ARGS="--sample 100"
	$(for_dev)
	$(bin)/python -m pip install --quiet --no-build-isolation --editable '.[measure]'
	@exec $(bin)/python -m tests.mutate $(ARGS)

bench:  ## measure what the router costs: latency, requests per second, CPU
	$(for_dev)
	@exec $(bin)/python -m tests.bench $(ARGS)

train:  ## train the shipped models again, three hours on two cores, resumable: make train DATA=../shared/data OUT=router/models
	$(for_dev)
	$(bin)/python -m pip install --no-build-isolation --editable '.[train]'
	$(bin)/python -m router.training fit --data $(DATA) --out $(OUT)/intent $(ARGS)
	$(bin)/python -m router.training verifier --data $(DATA) --out $(OUT)/verifier $(ARGS)
	@exec $(bin)/semantic-router calibrate cache $(DATA)/gptcache_qqp/dev.jsonl.gz --out $(OUT)/calibration.json \
	  --bundle $(OUT)/intent --verifier $(OUT)/verifier

schema:  ## write config/schema.json and the tables of config/README.md from the declared keys
	$(for_dev)
	$(bin)/python -m router.config.schema

proto:  ## compile proto/extproc.proto into router/extproc/pb
	$(for_dev)
	$(bin)/python proto/build_pb.py

# The lock files pin the versions. UPGRADE=1 takes the newest that pyproject.toml allows. Only this target needs uv.
builders := $(bin)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'
compile  := $(bin)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"
lock:  ## write requirements.lock and requirements-dev.lock from pyproject.toml
	$(for_dev)
	$(bin)/python -m pip install --quiet uv
	$(builders) | $(compile) $(if $(UPGRADE),--upgrade) pyproject.toml - --extra local -o requirements.lock
	$(builders) | $(compile) $(if $(UPGRADE),--upgrade) pyproject.toml - --extra dev -c requirements.lock -o requirements-dev.lock

clean:  ## remove .venv and everything generated
	rm -rf .venv .run dist build bench-results mutants .coverage router/extproc/pb .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(code) -name __pycache__ -type d -prune -exec rm -rf {} +
