# `make lab` and `make test` are all that a fresh machine with Python >= 3.11 needs; `make help`
# lists the rest. Works with the GNU make 3.81 of macOS.

TORCH ?= torch==2.13.0
PORT ?= 8888
LAB_ARGS ?=
ASSETS ?= local

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
PY := $(BIN)/python
READY := .venv/ready
NPM_READY := chapters/_site/node_modules/mathjax/package.json
START := chapters/index.ipynb
# Read by jupyter nbconvert.
EXPORT := .venv/etc/jupyter/jupyter_nbconvert_config.py

FIND_PYTHON = for candidate in "$$PYTHON" python3 python3.11 python3.12 python3.13 python3.14 python; do \
	  if [ -n "$$candidate" ] && "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    >/dev/null 2>&1; then echo "$$candidate"; exit 0; fi; \
	done

.PHONY: help lab test book chapters bench lint clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*  ## /make \1|/p' Makefile | while IFS='|' read -r target text; do \
	  printf '%-14s %s\n' "$$target" "$$text"; done

lab: $(READY) $(EXPORT)  ## open the book in JupyterLab (PORT=8888)
	@$(PY) -m chapters._tools.lab --port $(PORT) --LabApp.default_url=/lab/tree/$(START) $(LAB_ARGS)

test: $(READY) $(EXPORT)  ## run every test: code, notebooks, site, browser (STAGES="lint unit")
	@if command -v npm >/dev/null 2>&1; then $(MAKE) --no-print-directory assets; fi
	@GDM_ASSETS=$(ASSETS) $(PY) tests/stages.py $(STAGES)

book: $(READY) assets  ## build the site into _build/html (ASSETS=cdn does without npm)
	@rm -rf _build
	@GDM_ASSETS=$(ASSETS) $(PY) -m jupyter book build . --path-output . \
	  --builder custom --custom-builder html -W -n --keep-going
	@echo "The site is in _build/html. Its widgets need a server; this one is for your machine alone:"
	@echo "    $(PY) -m http.server -d _build/html -b localhost 8000"
	@echo "Then open http://localhost:8000/"

chapters: $(READY)  ## re-execute the chapters that changed (NAMES="vae/vae", ARGS=--force)
	@$(PY) -m chapters._tools.front
	@$(PY) -m chapters._tools.execute $(NAMES) $(ARGS)

bench: $(READY)  ## time the library side by side with its peers (NAMES="...", ARGS=--json)
	@$(PY) -m pip install --quiet -c .venv/constraints.txt -e '.[bench]'
	@$(PY) -m benchmarks $(NAMES) $(ARGS)

lint: $(READY)  ## check style, types and chapters' form; nothing is executed
	@$(PY) tests/stages.py lint chapters

clean:  ## remove what can be made again, .venv too
	rm -rf .venv _build .mypy_cache .ruff_cache .pytest_cache .hypothesis chapters/_site/node_modules

# -- set-up

$(READY): pyproject.toml constraints.txt
	@python="$$($(FIND_PYTHON))"; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11 or newer is needed, and none was found (tried python3.11 to python3.14,"; \
	  echo "python3 and python). Install one from https://www.python.org/downloads/, or name yours:"; \
	  echo "    make $(MAKECMDGOALS) PYTHON=/path/to/python3"; \
	  exit 1; \
	fi; \
	echo "Setting up .venv with $$($$python --version) (once, about a minute)"; \
	[ -x $(PY) ] || "$$python" -m venv .venv || { \
	  echo "Making .venv failed. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(PY) -m pip install --quiet '$(TORCH)'
	@grep -v '^torch==' constraints.txt > .venv/constraints.txt
	@$(PY) -m pip install --quiet -c .venv/constraints.txt -e '.[book,tests]'
	@touch $@

$(EXPORT): chapters/_tools/settings/jupyter_nbconvert_config.py $(READY)
	@mkdir -p $(@D)
	@cp $< $@

.PHONY: assets
ifeq ($(ASSETS),local)
assets: $(NPM_READY)
else
assets:
endif

$(NPM_READY): chapters/_site/package-lock.json
	@command -v npm >/dev/null 2>&1 || { \
	  echo "npm is needed to fetch scripts for the site: install Node.js (https://nodejs.org), or let"; \
	  echo "pages load them from the network with: make $(MAKECMDGOALS) ASSETS=cdn"; exit 1; }
	@cd chapters/_site && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
