# Two commands matter: `make demo` and `make test`. Both need Python 3.11, 3.12 or 3.13, make and a package registry.

# The Python to use. Without one, docker/choose_python.sh takes the first that fits.
PYTHON ?=
# One more index for pip, where the registry has no CPU build of torch for your Python:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
BIN := .venv/bin
# pip refuses a file whose hash is not in the lock. A package without wheels is built by the lock's
# own setuptools, because pip would fetch one for the build and check no hash of it.
INSTALL := $(BIN)/python docker/install.py --require-hashes --no-build-isolation
LOCKS := docker/torch.lock docker/cpu.lock docker/study.lock docker/audit.lock docker/tools.lock tests/smoke/requirements.lock
SBOM := build/sbom.json
PYTEST_ARGS ?=
# More options for pip-audit, for example --ignore-vuln=ID for one that no version mends.
AUDIT_ARGS ?=
DEMO_ARGS ?=
MODEL ?= smollm2
STUDY_ARGS ?=
SIMULATION_ARGS ?=
LEARN_ARGS ?=
RIVALS_ARGS ?=
RESULTS := trainer/tempo_lab/results
export HF_HUB_OFFLINE = 1

.PHONY: demo control smoke learn rivals study-cpu study-tune study-sweeps figures simulation test chaos attack lint sbom lock compose-check clean help

demo: .venv/ready  ## run the whole loop on a toy model: serve, capture, learn, promote, measure
	$(BIN)/python -m tempo_lab.demo.run --kept $(RESULTS) $(DEMO_ARGS)

control: .venv/ready  ## run the demo with the sign of the reward flipped; the model must not improve
	$(BIN)/python -m tempo_lab.demo.run --flip-reward --kept $(RESULTS) $(DEMO_ARGS)

smoke: .venv/smoke-tools  ## serve and train a real model, and refuse three wrong adapters
	$(BIN)/python tests/smoke/run.py --model $(MODEL)

learn: .venv/smoke-tools .venv/study  ## let a real model learn two kinds of questions; an hour for each set and seed; resumes
	$(BIN)/python -m tempo_lab.learn.main $(LEARN_ARGS)

rivals: .venv/smoke-tools  ## train the model of `make learn` by other methods, with the same questions and budget; resumes
	$(BIN)/python -m tempo_lab.learn.rivals $(RIVALS_ARGS)

study-cpu: .venv/study  ## compare TEMPO with other methods on two toy tasks, eight seeds each; resumes
	$(BIN)/python -m tempo_lab.study.cpu $(STUDY_ARGS)

study-tune: .venv/study  ## try the same six settings for each method, on a seed that the study does not use
	$(BIN)/python -m tempo_lab.study.cpu --tune --seeds 20 $(STUDY_ARGS)

study-sweeps: .venv/study  ## change one thing at a time, and try further arms; one task, three seeds; resumes
	$(BIN)/python -m tempo_lab.study.cpu --sweeps --seeds 10,11,12 $(STUDY_ARGS)

figures: .venv/ready  ## write the figures of README.md from the rows of finished runs
	$(BIN)/python -m tempo_lab.readme

simulation: .venv/ready  ## measure the gate, the sentinel and the intervals by simulation; half an hour, resumes
	$(BIN)/python -m tempo_lab.simulation.main --out trainer/docs/figures/simulation $(SIMULATION_ARGS)

test: lint  ## run linters, type checks, unit tests, and tests on real vLLM, Valkey and worker processes
	$(BIN)/python -m pytest $(PYTEST_ARGS)

chaos: .venv/ready  ## inject each fault into real processes, and print which promises held
	$(BIN)/python -m pytest -m fault $(PYTEST_ARGS)

attack: .venv/ready  ## attack a server, a worker and a Valkey as users and neighbours could, and print what was seen
	$(BIN)/python -m pytest -m attack $(PYTEST_ARGS)

lint: .venv/audit-tools  ## run linters and type checks, and look for known vulnerabilities of pinned packages
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python docker/audit.py $(LOCKS) $(AUDIT_ARGS)

sbom: .venv/audit-tools  ## write build/sbom.json, the list of the CPU stack's packages (CycloneDX)
	@mkdir -p $(dir $(SBOM))
	cat docker/torch.lock docker/cpu.lock | $(BIN)/cyclonedx-py requirements \
	    --pyproject pyproject.toml --validate --output-reproducible --output-file $(SBOM) -

lock: .venv/tools  ## record the hashes of all pinned packages again; those of torch with TORCH_INDEX
	sh docker/lock.sh $(BIN)/uv $(filter-out docker/torch.lock,$(LOCKS))
	$(if $(TORCH_INDEX),UV_DEFAULT_INDEX="$(TORCH_INDEX)" sh docker/lock.sh $(BIN)/uv docker/torch.lock)

compose-check: .venv/tools  ## let the real Compose binary and two linters read docker/
	$(BIN)/docker-compose --file docker/compose.yaml --profile cpu config --quiet
	$(BIN)/docker-compose --file docker/compose.yaml --profile gpu config --quiet
	$(BIN)/hadolint docker/Dockerfile
	cd docker && ../$(BIN)/compose-lint check --quiet --fail-on low --strict-config --skip-suppressed compose.yaml

clean:  ## delete the environment, the caches and build/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build

help:  ## print this list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "%-15s%s\n", $$1, $$2}' Makefile

.venv/tools: .venv/ready docker/tools.lock
	$(INSTALL) -r docker/tools.lock
	@touch $@

.venv/audit-tools: .venv/ready docker/audit.lock
	$(INSTALL) -r docker/audit.lock
	@touch $@

.venv/smoke-tools: .venv/ready tests/smoke/requirements.lock
	$(INSTALL) -r tests/smoke/requirements.lock
	@touch $@

.venv/study: .venv/ready docker/study.lock
	$(INSTALL) -r docker/study.lock
	@touch $@

.venv/ready: pyproject.toml docker/torch.lock docker/cpu.lock
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    python=$$(sh docker/choose_python.sh "$(PYTHON)" "$(TORCH_INDEX)") \
	    && echo "making .venv" && "$$python" -m venv .venv; }
	@$(INSTALL) $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") -r docker/torch.lock -r docker/cpu.lock
	@$(BIN)/python docker/install.py --no-build-isolation -e .
	@touch $@
