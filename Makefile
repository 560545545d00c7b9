# Each target includes its set-up; run again, it takes seconds.
#
#   make demo                    index the example images, search them, write a page
#   make demo PHOTOS=~/Pictures  the same with your own; QUERY=cat.jpg is the image to search with
#   make test                    install what the tests require, lint, run all tests
#   make lint                    formatting, types, style
#   make bench                   the speed and memory figures of docs/results.md
#   make web                     the web page of `bitgaze export-web`, and the npm package in web/

PYTHON ?= python3
PHOTOS ?= examples/pictures
QUERY ?=

# What a user gets, and what a developer needs.
DEMO := .venv
DEV := .venv-dev
SOURCES := $(shell find csrc runtime -type f -not -name '*.so' -not -path '*/__pycache__/*' -not -path '*.egg-info/*') \
           setup.py pyproject.toml CMakeLists.txt MANIFEST.in
WEB := $(shell find web csrc -type f -not -path '*/node_modules/*' -not -path '*/dist/*') \
       runtime/bitgaze/web/serve.css runtime/bitgaze/web/icon.svg
COMPILED := $(shell find csrc -type f) setup.py pyproject.toml CMakeLists.txt
DEBIAN_PACKAGES := g++ g++-aarch64-linux-gnu qemu-user dataset-fashion-mnist chromium \
                   clang lld wasi-libc libc++-dev-wasm32 libclang-rt-dev-wasm32

# cmake and ninja come from PyPI: the build and the C++ tests look for them on the path.
test lint bench web $(DEV)/installed: export PATH := $(abspath $(DEV))/bin:$(PATH)

.PHONY: demo test lint bench web debian clean

demo: $(DEMO)/installed
	@$(DEMO)/bin/python examples/demo.py "$(PHOTOS)" "$(QUERY)"

# One worker per core, each with one thread: otherwise torch starts a thread per core in every worker.
test: debian lint web
	OMP_NUM_THREADS=1 $(DEV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(DEV)/installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/clang-format --dry-run --Werror $$(find csrc examples/cpp -name '*.c' -o -name '*.cpp' -o -name '*.h' -o -name '*.hpp')

# The wheel takes the page along if it is there.
web: debian $(DEV)/installed
	@if command -v clang++ >/dev/null && command -v wasm-ld >/dev/null; then $(MAKE) --no-print-directory web/dist/index.js; \
	else echo "not built, so tests of the web page are skipped: clang and lld are not installed"; fi

web/dist/index.js: $(WEB)
	cd web && npm ci --ignore-scripts --no-audit --no-fund --silent && node build.mjs

bench: $(DEV)/installed
	$(DEV)/bin/python benchmarks/search.py
	$(DEV)/bin/python benchmarks/views.py
	$(DEV)/bin/python benchmarks/encode.py
	$(DEV)/bin/python benchmarks/sync.py
	$(DEV)/bin/python benchmarks/gallery.py

clean:
	rm -rf $(DEMO) $(DEV) build demo runtime/bitgaze.egg-info runtime/bitgaze/_hamming.*.so \
	    runtime/bitgaze/web/site web/dist web/node_modules

$(DEMO)/installed: $(SOURCES)
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install -q --disable-pip-version-check .
	@touch $@

$(DEV)/installed: $(COMPILED) constraints.txt tests/requirements.txt export/requirements.txt
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt \
	    -r tests/requirements.txt -r export/requirements.txt
	$(DEV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt \
	    --no-build-isolation -e .
	@touch $@

# Cross-compiler and emulator for the kernels of other processors, a data set, and a browser. Tests
# that require a missing one skip and say so; with CI set, a skipped test is a failure.
debian:
	@missing=; for package in $(DEBIAN_PACKAGES); do \
	    dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed \
	        || missing="$$missing $$package"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $$missing >/dev/null; \
	else echo "not installed, so tests that require them are skipped:$$missing"; fi
