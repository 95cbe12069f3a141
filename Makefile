# `make serve` and `make test` do the whole set-up first. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
HTTP_PORT ?= 8080
GRPC_PORT ?= 8081
ARGS ?=
SOAK ?= 30
LLAMA_SERVER ?=
# How llama-cpp-python is compiled. Without the multimodal library it takes about half as long.
CMAKE_ARGS ?= -DLLAVA_BUILD=OFF
# A compiled wheel of llama-cpp-python, or an index that has one: then nothing is compiled.
LLAMA_WHEEL ?=
LLAMA_INDEX ?=
export CMAKE_ARGS LLAMA_WHEEL LLAMA_INDEX

XDG_CACHE_HOME ?= $(HOME)/.cache
CACHE := $(XDG_CACHE_HOME)/kserve-llamacpp
# As it comes, for tests and benchmarks, and in the format that CPUs are fast with, to be served.
DEMO_MODEL := $(CACHE)/models/SmolLM2-135M-Instruct.Q4_1.gguf
FAST_MODEL := $(CACHE)/models/SmolLM2-135M-Instruct.Q4_0.gguf
SERVED := $(if $(MODEL),$(MODEL),$(FAST_MODEL))
MODEL ?= $(DEMO_MODEL)

VENV := .venv
BIN := $(VENV)/bin
# What serving needs, and with it what everything else here needs.
SERVES := $(VENV)/.serves
INSTALLED := $(VENV)/.installed
INSTALL := $(BIN)/python scripts/install_packages.py
# Build tools are pinned too: older versions of pip read the first variable for them, newer ones the second.
PINNED := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-ray test-notebooks test-all test-rollout test-faults test-clients lint format bench bench-platforms llama-server image-test audit chart release docs reference screenshots clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make serve MODEL=FILE HTTP_PORT=8080 GRPC_PORT=8081 ARGS='--max-sequences 4'"

setup: $(INSTALLED) $(FAST_MODEL) ## create .venv, compile llama.cpp once per machine, fetch the demo model

serve: $(SERVES) $(filter $(DEMO_MODEL) $(FAST_MODEL),$(SERVED)) ## serve MODEL (the demo model) until Ctrl-C
	@exec $(BIN)/kserve-llamacpp serve "$(SERVED)" --http-port $(HTTP_PORT) --grpc-port $(GRPC_PORT) $(ARGS)

# More processes than cores, since tests often wait; threads that spin would stop those of the others.
test: setup ## run the tests; ARGS goes to pytest
	@KSERVE_LLAMACPP_TEST_MODEL="$(DEMO_MODEL)" OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 3 --dist loadfile $(ARGS)

test-ray: setup ## run the tests that start Ray
	@KSERVE_LLAMACPP_TEST_MODEL="$(DEMO_MODEL)" $(BIN)/python -m pytest -m ray $(ARGS)

test-all: setup ## run the slow tests too
	@KSERVE_LLAMACPP_TEST_MODEL="$(DEMO_MODEL)" $(BIN)/python -m pytest -m '' $(ARGS)

test-rollout: setup ## roll real models out behind Envoy, kill and simulate rollouts, some hours
	@KSERVE_LLAMACPP_TEST_MODEL="$(DEMO_MODEL)" $(BIN)/python -m pytest -m slow tests/rollout $(ARGS)

test-faults: setup ## inject faults and write docs/reliability.md; SOAK=30 minutes of mixed load
	@$(INSTALL) --editable '.[faults]'
	@KSERVE_LLAMACPP_TEST_MODEL="$(DEMO_MODEL)" KSERVE_LLAMACPP_SOAK_MINUTES=$(SOAK) \
	KSERVE_LLAMACPP_FAULT_REPORT=docs/reliability.md $(BIN)/python -m pytest -m faults tests/faults $(ARGS)

test-clients: setup ## run the clients that people use and write what they did into docs/clients.md
	@for name in venv venv-llama-index venv-pydantic-ai; do \
	$(PYTHON) -m venv build/clients/$$name && \
	build/clients/$$name/bin/python -m pip install --quiet -r tests/clients/requirements/$$name.txt || exit 1; done
	@cp tests/clients/package.json build/clients/ && npm install --prefix build/clients --no-audit --no-fund --foreground-scripts
	@node build/clients/node_modules/@anthropic-ai/claude-code/install.cjs
	@KSERVE_LLAMACPP_TEST_MODEL="$(DEMO_MODEL)" KSERVE_LLAMACPP_CLIENTS=build/clients \
	KSERVE_LLAMACPP_CLIENT_REPORT=docs/clients.md $(BIN)/python -m pytest -m clients tests/clients $(ARGS)

test-notebooks: setup ## execute the notebooks with small sizes
	@KSERVE_LLAMACPP_TEST_MODEL="$(DEMO_MODEL)" $(BIN)/python -m pytest tests/notebooks -m '' $(ARGS)

lint: $(INSTALLED) ## check format, style, types and the walls between the rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(INSTALLED) ## format the code and apply the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

llama-server: $(INSTALLED) ## compile llama-server of the same llama.cpp, for comparison
	@$(BIN)/python scripts/build_llama.py server

bench: setup ## compare with llama-server: LLAMA_SERVER=FILE, compiled first where none is given
	@binary="$(LLAMA_SERVER)"; \
	[ -n "$$binary" ] || binary=$$($(BIN)/python scripts/build_llama.py server)/llama-server && \
	$(BIN)/python -m benchmarks --model "$(MODEL)" --llama-server "$$binary" $(ARGS)

bench-platforms: setup ## compare KServe with Ray Serve on this machine
	@$(BIN)/python -m benchmarks.platforms --model "$(MODEL)" $(ARGS)

image-test: $(INSTALLED) $(filter $(DEMO_MODEL),$(MODEL)) ## build the image and test it
	@$(BIN)/python scripts/image_test.py "$(MODEL)"

audit: $(INSTALLED) ## compare the pinned versions with known vulnerabilities
	@$(INSTALL) --editable '.[audit]'
	@$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict $(ARGS)

chart: $(INSTALLED) ## write the chart's objects anew from the kustomize folders
	@$(BIN)/python scripts/chart_files.py

release: $(INSTALLED) ## make a release's files from VERSION=1.4.0; PUBLISH=1 commits and tags it too
	@$(BIN)/python scripts/release.py $(if $(PUBLISH),--publish) "$(VERSION)"

docs: $(INSTALLED) ## build the documentation's site in build/site; a broken link fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

reference: $(INSTALLED) $(filter $(DEMO_MODEL),$(MODEL)) ## write docs/reference anew from the code
	@$(BIN)/python scripts/reference_pages.py "$(MODEL)"
	@$(BIN)/python scripts/chat_formats_page.py

screenshots: setup ## take the pictures of the chat page in docs anew
	@KSERVE_LLAMACPP_TEST_MODEL="$(DEMO_MODEL)" KSERVE_LLAMACPP_SCREENSHOTS=docs \
	$(BIN)/python -m pytest -m slow tests/api/test_screenshots.py

clean: ## remove .venv; compiled llama.cpp and the demo model stay
	rm -rf $(VENV)

distclean: clean ## remove compiled llama.cpp and the demo model too: the next set-up compiles again
	rm -rf "$(CACHE)/wheels" "$(CACHE)/openblas" "$(CACHE)/llama-server" "$(CACHE)/models"

$(SERVES): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@echo "Setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PINNED) $(BIN)/python scripts/build_llama.py wheel > $(VENV)/llama-wheel
	@echo "Installing the pinned packages that serving needs"
	@$(INSTALL) "$$(cat $(VENV)/llama-wheel)" --editable .
	@$(PINNED) $(BIN)/python scripts/build_llama.py openblas
	@echo "$(LLAMA_CHOICE)" > $(VENV)/llama-choice
	@touch $@

$(INSTALLED): $(SERVES)
	@echo "Installing the pinned packages for tests, benchmarks and docs"
	@$(INSTALL) --editable '.[test,lint,bench,ray,docs]'
	@touch $@

# Another wheel than last time is installed; naming none keeps what is there.
LLAMA_CHOICE := $(LLAMA_WHEEL)$(LLAMA_INDEX)
ifneq ($(LLAMA_CHOICE),)
ifneq ($(LLAMA_CHOICE),$(file < $(VENV)/llama-choice))
$(SERVES): FORCE
.PHONY: FORCE
endif
endif

$(DEMO_MODEL): | $(SERVES)
	@echo "Fetching the demo model, 98 MB"
	@$(BIN)/python scripts/fetch_demo_model.py "$@"

$(FAST_MODEL): | $(DEMO_MODEL)
	@$(BIN)/python scripts/convert_demo_model.py "$(DEMO_MODEL)" "$@"
