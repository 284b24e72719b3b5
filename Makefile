.PHONY: setup demo test test-slow test-network fuzz lint bench soak clean
PYTHON ?= python3
BIN = .venv/bin

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt "torch==2.13.0"
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	touch .venv/ready

# about three minutes: three learners, one of them slow, three processes killed
demo: setup
	@rm -rf runs/demo
	$(BIN)/plesio run --name demo --learners 3 --slow learner-2=3 --every 16 --start-rounds 24 --until-tokens 800000 \
	  --chaos "kill learner-1 at 150000 tokens; kill synchronizer at 300000 tokens; kill coordinator at 450000 tokens" \
	  examples/gpt.py --batch 8

lint: setup
	$(BIN)/ruff check src tests examples benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -m "not slow and not gpu and not network" -n 2

test-slow: setup
	$(BIN)/pytest -m "slow" --timeout 900

# a million inputs for what reads the network
fuzz: setup
	$(BIN)/python -m plesio.testing.fuzz --inputs 1000000

# needs root, `ip` and `tc`: machines made of network namespaces; not yet part of .ci/run
test-network: setup
	$(BIN)/pytest -m network --timeout 600

bench: setup
	$(BIN)/python benchmarks/bench_overhead.py

# 20 minutes: does anything grow with a run's length?
soak: setup
	$(BIN)/python benchmarks/bench_soak.py --minutes 20

clean:
	rm -rf .venv runs build
