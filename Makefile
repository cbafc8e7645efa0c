# Each way in makes .venv and installs what it needs on its first call; a later call starts at once.
#   make demo LAB_ARGS=...   arguments for JupyterLab       make test PYTHON=python3.12   the Python to make .venv with
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo lab docs one check test latency bench studies browser sync notebooks clean merging
.DELETE_ON_ERROR:
.NOTPARALLEL:  # all targets write to one .venv, and two that measure would disturb each other: -j changes nothing

PYTHON ?= python3
LAB_ARGS ?=
NOTEBOOKS ?=
M ?=
BIN := .venv/bin
METADATA := settings.ini constraints.txt setup.py pyproject.toml

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(BIN)/ready-demo  ## Segment a real microscopy image with the bundled weights; pictures, numbers and a page to explore them go to out/
	@$(BIN)/sdfdiff demo --out out/ --force && $(BIN)/sdfdiff explore out/demo.nc --force

lab: $(BIN)/ready-lab merging  ## Open the notebooks in JupyterLab (LAB_ARGS="--no-browser --port 8899" for more)
	@PATH="$(CURDIR)/$(BIN):$$PATH" JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" \
		$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs/index.ipynb $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

docs: $(BIN)/ready-docs  ## Make a web site of the course in _docs/, which needs no network
	@$(BIN)/python nbs/_site/build.py _docs

# One thread per process: small tensor operations are slower with two, and two processes share the machine.
lab docs one check test latency bench studies notebooks: export OMP_NUM_THREADS := 1
lab docs one check test latency bench studies notebooks: export MKL_NUM_THREADS := 1
one check test notebooks sync: export PATH := $(CURDIR)/$(BIN):$(PATH)
one: $(BIN)/ready-test merging  ## Export, run one notebook and its tests (M=uncertainty/errors): half a minute
	@python tests/one.py '$(M)'

RULES := python -m pytest -q tests/test_house.py tests/test_course.py
check: $(BIN)/ready-test merging  ## Compare, change nothing: clean, exported, ruff, width, house rules: a quarter of a minute
	@python tests/in_sync.py clean && python tests/in_sync.py export && ruff check && ruff format --check && $(RULES)

test: $(BIN)/ready-test merging browser  ## Check everything: as `check`, then every test and each notebook
	@echo "== are the notebooks clean?" && python tests/in_sync.py clean
	@echo "== is sdfdiff/ what they export?" && python tests/in_sync.py export
	@echo "== ruff" && ruff check && ruff format --check
	@echo "== pytest" && python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

latency: $(BIN)/ready-test browser  ## Measure from slider to picture in JupyterLab, the panels against others; numbers go to data/latency.json
	@$(BIN)/python tests/benchmark_panels.py data/latency.json

bench: $(BIN)/ready-bench  ## Measure speed, samplers, tiles and memory beside other libraries (ten quiet minutes): data/benchmark.nc
	@$(BIN)/python -m benchmarks bench --out data/benchmark.nc --force

studies: $(BIN)/ready-bench  ## Make the stored results again, in runs/studies, and compare (ONLY="margin posterior" LIST=1 OUT=DIR REPLACE=1 GLAS=DIR ...)
	@$(BIN)/python -m benchmarks studies $(if $(ONLY),--only $(ONLY)) $(if $(OUT),--out $(OUT)) $(if $(LIST),--list) $(if $(REPLACE),--replace)

# The site and the panels are tested in a real browser; the names are those of tests/browser.py.
browser:
	@command -v $$CHROMIUM chromium chromium-browser google-chrome > /dev/null || { \
		echo "Installing Chromium, in which the tests look at the pages."; \
		sudo="$$([ "$$(id -u)" = 0 ] || command -v sudo)"; \
		$$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; \
	} || { echo "The tests need a Chromium browser and apt-get could not install it: install one, or name it as in \`make test CHROMIUM=/path/to/chrome\`." >&2; exit 1; }

sync: $(BIN)/ready-test merging  ## Clean the notebooks and export them to sdfdiff/
	@nbdev_clean && nbdev_clean --fname benchmarks && ruff format -q && nbdev_export && echo "The notebooks are clean and sdfdiff/ is what they export."

notebooks: $(BIN)/ready-test merging  ## Execute the notebooks in place, then clean them (NOTEBOOKS="nbs/0_ground/3_distance.ipynb" for some)
	@python tests/run_notebooks.py $(NOTEBOOKS) && nbdev_clean && nbdev_clean --fname benchmarks

clean:  ## Remove .venv, _docs, caches and what builds left behind (out/ and runs/ stay)
	@rm -rf .venv build dist _docs *.egg-info .pytest_cache .ruff_cache .hypothesis nbs/.ipynb_checkpoints nbs/.last_checked
	@find sdfdiff tests nbs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# What each way in installs, and which others are served by it too.
WHAT_demo := .
WHAT_lab  := .[lab]
WHAT_docs := .[docs,lab]
WHAT_test := .[dev,lab]
WHAT_bench := .[bench]
SERVES_demo := demo
SERVES_lab  := lab demo
SERVES_docs := docs lab demo
SERVES_test := test docs lab demo
SERVES_bench := bench demo

# .venv is made anew if it lacks pip, or was moved or copied along with the checkout: it would run the old place's code.
HERE := $(shell grep -qsF '$(CURDIR)/.venv' $(BIN)/activate && $(BIN)/python -c 'import pip' 2> /dev/null && echo yes)

$(BIN)/activate: $(if $(HERE),,elsewhere)
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
		found="$$($(PYTHON) --version 2> /dev/null || echo not found)"; \
		echo "sdfdiff needs Python 3.11 or newer, but $(PYTHON) is $$found: install one and name it, as in \`make $(firstword $(MAKECMDGOALS)) PYTHON=python3.11\`." >&2; exit 1; \
	fi; \
	echo "Making .venv ($$($(PYTHON) --version))"; \
	$(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }

$(BIN)/ready-%: $(METADATA) $(if $(HERE),,$(if $(wildcard $(BIN)/ready-*),elsewhere)) | $(BIN)/activate
	@set -o pipefail; \
	printf 'Installing %s into .venv: a minute or two, only when requirements change ' '$(WHAT_$*)'; \
	PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e '$(WHAT_$*)' 2> >(grep -v 'WARNING: Location' >&2) \
	| while read -r word rest; do case "$$word $$rest" in \
		Collecting*) printf . ;; \
		Downloading*\(???.?\ MB\)*|Downloading*GB\)*) printf ' %s ' "$${rest##*/}" ;; \
		Installing\ collected*) printf ' unpacking' ;; \
	esac; done; \
	status=$$?; echo; [ $$status = 0 ] && touch $(SERVES_$*:%=$(BIN)/ready-%)

.PHONY: elsewhere
elsewhere:

# What .gitattributes calls nbdev-merge: notebooks are merged cell by cell. A checkout without .venv merges them as text.
MERGE := if [ -x $(BIN)/nbdev_merge ]; then $(BIN)/nbdev_merge %O %A %B %P; else git merge-file %A %O %B; fi
merging:
	@[ ! -e .git ] || { git config merge.nbdev-merge.name 'notebooks, cell by cell' && git config merge.nbdev-merge.driver '$(MERGE)'; }
