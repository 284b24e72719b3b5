.PHONY: setup demo test test-stalled test-slow test-network test-gpu bench-gpu fuzz chaos pool-chaos lock-chaos everything lint bench soak clean
PYTHON ?= python3
BIN = .venv/bin

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt "torch==2.13.0"
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	touch .venv/ready

# about four minutes: three learners, one of them slow, three processes killed
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
	$(BIN)/pytest -m "not slow and not gpu and not network" -n 4 --dist worksteal -rf --durations 12

# the tests with real processes, each of which stands still for a moment again and again: does one count on usual order?
STALLED ?= tests/integration
test-stalled: setup
	PYTHONPATH=$(CURDIR)/tests/stalls $(BIN)/pytest -m "not slow and not gpu and not network" -n 4 --dist worksteal -rf --timeout 600 $(STALLED)

test-slow: setup
	$(BIN)/pytest -m "slow" --timeout 900

# on a machine with a CUDA device; GPU_PYTHON: one whose torch is built for it (what setup installs is built for CPUs)
GPU_PYTHON ?= python3
test-gpu:
	PYTHONPATH=src $(GPU_PYTHON) -m pytest -m gpu
	PYTHONPATH=src $(GPU_PYTHON) -m pytest tests/unit/test_gpu_kernels.py

bench-gpu:
	PYTHONPATH=src $(GPU_PYTHON) benchmarks/bench_codecs.py --device cuda

# a million inputs for what reads the network, and a million for what reads packets
fuzz: setup
	$(BIN)/python -m plesio.testing.fuzz --inputs 1000000
	$(BIN)/python -m plesio.testing.fuzzpackets --inputs 1000000

# about ten minutes: 20 seeded schedules of real faults
chaos: setup
	$(BIN)/python -m plesio.testing.chaos --seeds 20 --out benchmarks/results/chaos.json

# about fifteen minutes: 50 seeded schedules of real faults under tasks, and 50 under messages
pool-chaos: setup
	$(BIN)/python -m plesio.testing.poolchaos --seeds 50 --out benchmarks/results/pool_chaos.json

# about twenty minutes: 20 seeded schedules of kills under a run, a map, two queues, a lock and urgent tasks in one pool
everything: setup
	$(BIN)/python -m plesio.testing.everything --seeds 20 --out benchmarks/results/everything.json

# about eight minutes: 10 seeded schedules of real faults under locks, counters, events and barriers; are the histories linearizable?
lock-chaos: setup
	$(BIN)/python -m plesio.testing.lockstorm --seeds 10 --out benchmarks/results/locks_chaos.json

# machines made of network namespaces; two or three minutes; needs `ip` and `tc`
test-network: setup
	.ci/with-namespaces $(BIN)/pytest -m network -n 2 -p no:cacheprovider --timeout 600

# most of an hour; the last two need what test-network needs
bench: setup
	$(BIN)/pip install -q -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/bench_overhead.py
	$(BIN)/python benchmarks/bench_transport.py
	$(BIN)/python benchmarks/bench_depth.py
	$(BIN)/python benchmarks/bench_tasks.py
	$(BIN)/python benchmarks/bench_tasks.py --kill
	$(BIN)/python benchmarks/bench_map.py --records 1000000
	$(BIN)/python benchmarks/bench_codecs.py
	$(BIN)/python benchmarks/bench_aggregate.py
	$(BIN)/python benchmarks/bench_codec_feedback.py
	.ci/with-namespaces $(BIN)/python benchmarks/bench_tls.py
	.ci/with-namespaces $(BIN)/python benchmarks/bench_slow_link.py

# 20 minutes: does anything grow with a run's length?
soak: setup
	$(BIN)/python benchmarks/bench_soak.py --minutes 20

clean:
	rm -rf .venv runs build
