# modelyard: short names. `make demo` and `make test` each work as the first command ever run.
VENV ?= .venv
PYTHON ?= python3
UV_VERSION := 0.13.8
SETUP_INPUTS := $(if $(filter file,$(origin VENV)),pyproject.toml constraints.txt)

export PATH := $(abspath $(VENV))/bin:$(PATH)
# uv does not read pip's configuration: pass on where a person keeps local wheels.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

# Where it is set, every process would compile torch and Dagster anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-demo test-cluster lint bench golden constraints lineage evidence

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready ## the environment, in .venv
$(VENV)/.ready: $(SETUP_INPUTS)
	test -x $(VENV)/bin/uv || $(PYTHON) scripts/bootstrap.py $(VENV) $(UV_VERSION)
	uv pip install --quiet --python $(VENV)/bin/python -c constraints.txt -e '.[pipeline,serving,delivery]' --group dev --group bench
	touch $@

test: setup ## each capability once, with real parts
	pytest -n 2 --dist loadgroup -m "not slow and not e2e and not cluster"

test-slow: setup ## the other tasks, faults, interruptions, images and workflows
	pytest -n 2 --dist loadgroup -m slow

test-demo: setup ## the demo, what it printed and what it left; alone, since it measures live traffic
	pytest -m e2e

test-cluster: setup ## tests on a real cluster, which it starts and ends (root, Go; docs/how-to/test-on-a-cluster.md)
	PYTHONPATH=tests:. python -m cluster.node run -- bash scripts/test-cluster.sh

demo: setup ## a model repo from the template, its pipeline, three releases
	bash scripts/demo.sh

lineage: setup ## the picture of Dagster's lineage, from the demo's repo (needs chromium)
	python scripts/lineage.py build/demo/flight-delay docs/images/lineage.png

evidence: setup ## the picture of an evidence report, the demo's (needs chromium)
	python scripts/evidence.py build/demo/report.html docs/images/evidence.png

lint: setup ## style, types, walls between the rooms, workflows
	ruff check .
	ruff format --check .
	pyrefly check
	lint-imports
	zizmor --offline --quiet .github

bench: setup ## measurements, as ratios
	python -m benchmarks.orchestration --json
	python -m benchmarks.training --json
	python -m benchmarks.serving --json
	python -m benchmarks.batch --json
	python -m benchmarks.canary --json

golden: export MODELYARD_VERSION = 0.1.0
golden: setup ## write the rendered YAML anew that tests compare
	modelyard manifests --write
	cd tests/argo/model && modelyard render
	MODELYARD_GOLDEN=write pytest -q tests/pipeline/test_indexed_job.py tests/pipeline/test_graph.py

constraints: setup ## compile the pins of the whole stack anew, and the hashes of what the images have
	uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
	  --no-emit-find-links --no-emit-index-url --all-extras --group dev --group bench \
	  pyproject.toml constraints.in -o constraints.txt
	echo uv | uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
	  --no-emit-find-links --no-emit-index-url --extra serving --generate-hashes \
	  -c constraints.txt pyproject.toml - -o bentos/modelyard/serving/bento/hashes.txt
	printf 'hatchling\nhatch-vcs\n' | uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
	  --no-emit-find-links --no-emit-index-url --extra steering --generate-hashes \
	  -c constraints.txt pyproject.toml - -o argo/hashes.txt
