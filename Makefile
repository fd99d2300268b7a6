# Everything from a bare machine: `make report`. Needs Python 3.11 to 3.13, its headers, a C++ compiler and a package
# registry; uv, which installs the exact versions of uv.lock, is fetched when it is not there. What the machine lacks
# is said before anything long starts.
PYTHON ?= python3
PROFILE ?= toy
# Build of PyTorch, as uv names it (cpu, cu126, ...); when left out, the one on the package registry, which brings CUDA.
TORCH ?=
UV := $(if $(shell uv --version 2>/dev/null),uv,.tools/bin/uv)
BIN := .venv/bin
INSTALLED := .venv/.installed
# Of one thread each: small tensors and a busy machine make threads wait for each other. The notebooks are in one of them.
TWO_PROCESSES := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# The versions of uv.lock, with another build of PyTorch. The lock knows one build only, so it serves as constraints;
# what pydensecrf2 is built with comes first.
PIP = $(UV) pip install --torch-backend $(TORCH) --constraints .venv/locked.txt
INSTALL_BUILD = $(UV) venv --allow-existing --python $(PYTHON) .venv \
	&& $(UV) export --quiet --locked --no-hashes --no-emit-project --output-file .venv/locked.txt \
	&& $(PIP) --group build && $(PIP) --group dev --editable .
# Every notebook starts Python anew; where this variable keeps it from storing what it compiled, that is ten seconds each.
unexport PYTHONDONTWRITEBYTECODE
STOP = { echo "make: $(1)" >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help install report test demo lab bench clean

help: ## list what there is to make
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 20

install: $(INSTALLED) ## install everything into .venv; TORCH=cpu takes PyTorch's CPU build from its own index

report: $(INSTALLED) ## run the notebooks that are out of date, then write the report; PROFILE=smoke, toy, study, animals or voc
	@$(BIN)/python tools/preflight.py
	@$(BIN)/wsseg run --profile $(PROFILE)

test: $(INSTALLED) ## lint, types, order of the rooms, and the tests with coverage
	@$(BIN)/python tools/preflight.py
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@OMP_NUM_THREADS=1 $(BIN)/pytest --cov $(TWO_PROCESSES)

demo: $(INSTALLED) ## segment two free photographs, and IMAGES="a.jpg b.png", with the weights that are shipped
	@$(BIN)/python tools/preflight.py
	@$(BIN)/wsseg demo $(IMAGES)

lab: $(INSTALLED) ## open the notebooks in JupyterLab, with PROFILE
	@$(BIN)/wsseg lab --profile $(PROFILE)

bench: $(INSTALLED) ## measure the speed against other implementations
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean: ## remove caches, drawn data and results of smoke and toy; downloads, voc results and .venv stay
	rm -rf .snakemake .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.* data/toyvoc* results/smoke*
	find results -mindepth 1 -maxdepth 1 -name 'toy-seed*' -exec rm -rf {} + 2>/dev/null || true
	find results/toy -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} + 2>/dev/null || true

$(INSTALLED): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 6))' 2>/dev/null \
		|| $(call STOP,$(PYTHON) is missing or too old; install Python 3.11 to 3.13 and name it: make PYTHON=python3.13)
	@$(PYTHON) tools/preflight.py --install
	@$(UV) --version >/dev/null 2>&1 || { echo "fetching uv into .tools" && $(PYTHON) -m venv .tools && .tools/bin/pip install --quiet uv; } \
		|| $(call STOP,uv could not be installed into .tools; install it by hand: https://docs.astral.sh/uv)
	@$(if $(TORCH),$(INSTALL_BUILD),$(UV) sync --locked --python $(PYTHON))
	@touch $@
