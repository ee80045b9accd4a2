# swmld: `make run MOUNT=/mnt/ml` on a fresh Debian 12, as root; `make test` sets up the same way and tests all.

MOUNT ?= /mnt/ml
DEMO ?= /tmp/swmld-demo
ARGS ?=
BIN ?= /usr/local/bin
STATE ?= /var/lib/swmld

VENV := .venv
PYTHON := $(VENV)/bin/python
# The system's Python and its packages: bcc comes from Debian (python3-bpfcc), it is not on PyPI.
SYSTEM_PYTHON := /usr/bin/python3
PACKAGES := gcc libfuse3-dev libzstd-dev fuse3 make pkg-config python3-bpfcc python3-dev python3-venv
# The probes are compiled with kernel headers, any kernel's. Installed if the archive has them: derivatives of
# Debian name theirs otherwise, and without them swmld sees what FUSE sees.
HEADERS := linux-headers-$(shell dpkg --print-architecture)
NATIVE := $(filter-out native/test_%,$(wildcard native/*.c native/*.h native/*.py bpf/*.h))
TEST_PACKAGES := acl attr bpftool btrfs-progs fio git nginx-light sqlite3 stress-ng tmux
# Real clients of the mount. This version of torch has a build without CUDA; the newest may not.
TEST_CLIENTS := numpy pyarrow safetensors torch==2.13.0
CORPUS_CLIENTS := webdataset datasets tfrecord h5py

.PHONY: help setup run demo test test-setup test-native lint bench corpus clean packages test-packages
.DELETE_ON_ERROR:

help:
	@echo 'make run MOUNT=DIR [ARGS=...]   set up and serve DIR through a cache, in the foreground'
	@echo 'make demo [DEMO=DIR]            set up and read a small sample through a mount'
	@echo 'make setup                      system packages, .venv, native library, $(BIN)/swmld'
	@echo 'make test | lint | bench        set up for tests, then run them'
	@echo 'make corpus [ARGS=--missing]    record the traces of tests/corpus anew'
	@echo 'make clean                      remove what was built'

setup: packages $(VENV)/.installed $(BIN)/swmld $(VENV)/.probes

run: setup
	exec $(VENV)/bin/swmld --mount $(MOUNT) $(ARGS)

demo: setup
	exec $(VENV)/bin/swmld demo $(DEMO)

# As many at once as there are CPUs, but for those that mind: ALONE in tests/conftest.py.
test: test-setup lint
	$(PYTHON) -m pytest -n auto --dist loadfile -m 'not alone'
	$(PYTHON) -m pytest -m alone

test-setup: setup test-packages $(VENV)/.clients

# C first: what fails here makes every layer above it fail.
test-native: setup
	$(MAKE) -C native test

lint: setup
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

bench: test-setup
	$(PYTHON) tests/bench/run.py $(ARGS)

# Programs to read with, beside those that the tests need; the test of the corpus needs its traces alone.
corpus: test-setup
	$(PYTHON) -m pip install -q --disable-pip-version-check $(CORPUS_CLIENTS)
	$(PYTHON) tests/corpus/record.py $(ARGS)

clean:
	rm -rf $(VENV) build daemon/*.egg-info daemon/swmld/_native* native/test_build
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find daemon tests -name __pycache__ -prune -exec rm -rf {} +

# Installs what dpkg does not have, and asks no server when nothing is missing. The second list is of packages
# that are left out where the archive does not have them, or one who is not root asks.
define install
	@missing=''; wanted=''; root() { [ "$$(id -u)" = 0 ]; }; \
	lacks() { ! dpkg-query -W -f='$${Status}\n' $$1 2>/dev/null | grep -q '^install ok installed$$'; }; \
	known() { apt-cache show $$1 >/dev/null 2>&1; }; \
	for package in $(1); do if lacks $$package; then missing="$$missing $$package"; fi; done; \
	for package in $(2); do if lacks $$package; then wanted="$$wanted $$package"; fi; done; \
	if [ -z "$$missing" ] && root; then for package in $$wanted; do if known $$package; then missing=' '; fi; done; fi; \
	if [ -n "$$missing" ]; then \
	  root || { echo "make: as root, to install:$$missing" >&2; exit 2; }; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -q || exit; \
	  for package in $$wanted; do if known $$package; then missing="$$missing $$package"; fi; done; \
	  apt-get install -q -y --no-install-recommends $$missing; fi
endef

packages:
	$(call install,$(PACKAGES),$(HEADERS))

test-packages:
	$(call install,$(TEST_PACKAGES))

$(VENV)/.made:
	$(SYSTEM_PYTHON) -m venv --system-site-packages $(VENV)
	$(PYTHON) -m pip install -q --disable-pip-version-check --upgrade pip setuptools wheel cffi
	touch $@

# Compiled at once: where Python may not write bytecode a start would take half as long again. Without build
# isolation, so that a change of the native code needs no download. `packages` comes first, but
# only as an order: it never makes this out of date.
$(VENV)/.installed: $(VENV)/.made pyproject.toml setup.py $(NATIVE) | packages
	$(PYTHON) -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[test]'
	$(PYTHON) -m compileall -q daemon/swmld
	touch $@

# The probes are compiled here, so that the first start finds them in its state directory. Where that cannot be (not root,
# no headers, a container) the daemon says why when it starts.
$(VENV)/.probes: $(VENV)/.installed $(wildcard bpf/*.c)
	-@$(PYTHON) -P -m swmld.observe.loader --state $(STATE) >/dev/null
	touch $@

$(VENV)/.clients: $(VENV)/.installed
	$(PYTHON) -m pip install -q --disable-pip-version-check $(TEST_CLIENTS)
	touch $@

$(VENV)/.made: | packages

# On the PATH of root and of sudo. A program of that name that is not ours is left alone.
$(BIN)/swmld: $(VENV)/.installed
	@if [ -e $@ ] && [ ! -L $@ ]; then echo "make: $@ is not a link of ours, left as it is" >&2; \
	else ln -sfn $(CURDIR)/$(VENV)/bin/swmld $@; fi
