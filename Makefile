# `make` lists the targets. Everything runs in .venv, which is made from requirements/locked.txt when first needed.
# Another interpreter: make PYTHON=python3.12 test. More words for a program: make bench ARGS=--quick.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo demo-failover kills test check bench bench-peers simulate figures lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(READY) ## run a real model over real input on this machine, and show what it found
	$(BIN)/python -m peerinfer_node.demo $(ARGS)

demo-failover: $(READY) ## run a job on five daemons, kill its coordinator twice, compare the results
	$(BIN)/python -m peerinfer_node.demo_failover $(ARGS)

test: check ## check, then all tests
	$(BIN)/python -m pytest -q $(ARGS)

check: $(READY) ## lint, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

kills: $(READY) ## kill daemons at random while detached jobs run; nothing may be lost or done twice
	$(BIN)/python tests/integration/hundred_kills.py $(ARGS)

bench: $(READY) ## measure this tree; writes build/bench.json
	$(BIN)/python tests/benchmarks/run.py $(ARGS)

bench-peers: bench ## the same work on ZeroMQ, Ray and Celery, in an environment of their own
	$(BIN)/python tests/benchmarks/peers/run_all.py

simulate: $(READY) ## run a swarm under a virtual clock, tear at lease and journal in 10,000 runs, and let saboteurs at it
	$(BIN)/python -m peerinfer_sim $(ARGS)
	$(BIN)/python -m peerinfer_sim.lease --seed 0 --runs 10000
	$(BIN)/python -m peerinfer_sim.figures --quick

figures: $(READY) ## every promised figure of placement, verification and trust, with plots: up to an hour
	$(BIN)/python -m peerinfer_sim.figures $(ARGS)

lock: ## resolve the dependencies anew into requirements/locked.txt (needs uv)
	uv pip compile pyproject.toml --extra dev --extra gpu --universal --python-version 3.11 --no-emit-index-url \
		--generate-hashes --no-annotate --no-header -o requirements/locked.txt

clean: ## remove what was built and cached; keeps .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

# The stamp is written last: an installation that broke off is taken up again. `--no-deps` since the list is complete,
# and since libp2p itself asks for a fastecdsa that needs a compiler (see [tool.uv] in pyproject.toml).
$(READY): requirements/locked.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/locked.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY)
