# make demo       environment, install, the whole pipeline on the embedded demo set, leaderboard
# make test       environment, install, all tests
# make lint       ruff, imports between rooms, pyright
# make docs       the site, into site/
# make benchmark  PARAMS=<file> WORKSPACE=<dir>: the same pipeline for any parameter file

SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
DEMO_WORKSPACE = $(or $(TMPDIR),/tmp)/clflow-demo-$(shell id -un)
BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | tr -d ' ')
EXTRAS := demo,dev,docs,export,peers,serve,workflow
comma := ,
CLFLOW = PATH="$(BIN):$$PATH" $(BIN)/clflow

.PHONY: demo test lint docs benchmark named install lock
.DEFAULT_GOAL := demo


demo: install
	$(CLFLOW) benchmark --params pipelines/demo.yaml --workspace "$(or $(WORKSPACE),$(DEMO_WORKSPACE))"

benchmark: named install
	$(CLFLOW) benchmark --params "$(PARAMS)" --workspace "$(WORKSPACE)"

named:
	@test -n "$(PARAMS)" || { echo "error: name the parameter file: make benchmark PARAMS=<file> WORKSPACE=<dir>" >&2; exit 2; }
	@test -n "$(WORKSPACE)" || { echo "error: name the folder to work in: make benchmark PARAMS=<file> WORKSPACE=<dir>" >&2; exit 2; }

test: install
	PATH="$(BIN):$$PATH" $(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	PATH="$(BIN):$$PATH" $(BIN)/pyright

docs: install
	PATH="$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# A local part of a version, such as +cpu, names a build of this machine. pip-compile, unlike pip, records the hashes of
# the files for all platforms; the project itself, which its extras name, is none of them.
lock:
	lock=$$(mktemp --directory) && trap 'rm -r "$$lock"' EXIT && $(PYTHON) -m venv "$$lock" \
	&& "$$lock/bin/pip" install --quiet torch torchvision --editable ".[$(EXTRAS)]" \
	&& { echo '# Exact versions of all that the extras of pyproject.toml bring; `make lock` renews it.'; \
	     "$$lock/bin/pip" freeze --exclude-editable | sed 's/+.*//'; } > constraints.txt \
	&& "$$lock/bin/pip" install --quiet pip-tools==7.6.2 \
	&& "$$lock/bin/pip-compile" --quiet --generate-hashes --strip-extras --no-annotate --no-header --no-emit-options \
	     --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	     --unsafe-package torch --unsafe-package torchvision --constraint constraints.txt \
	     $(foreach extra,$(subst $(comma), ,$(EXTRAS)),--extra $(extra)) --output-file "$$lock/hashes" pyproject.toml \
	&& { echo '# Exact versions with the SHA-256 of every file of them, of all that the extras of pyproject.toml bring but torch and'; \
	     echo '# torchvision, whose builds differ by index; `make lock` renews it.'; \
	     sed '/^#/d; /^clflow/d' "$$lock/hashes"; } > requirements.lock

install: $(INSTALLED)
	@PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .

# Exactly the versions of constraints.txt. torch and torchvision are named in one command: apart, pip may pair builds that
# do not fit each other.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/pip install --quiet --constraint constraints.txt torch torchvision --editable ".[$(EXTRAS)]"
	@touch $@
