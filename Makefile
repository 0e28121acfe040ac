# Every target sets up what it needs, in a virtual environment of its own; VENV and PYTHON choose another:
#   make test VENV=/somewhere/else PYTHON=python3.12
# What gets compiled is said as to pip, see CONTRIBUTING.md: TALK3D_BUILD, TORCH_CUDA_ARCH_LIST, MAX_JOBS, CXX.

VENV ?= .venv
PYTHON ?= python3

BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
NATIVE := $(shell find csrc -type f)
INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation
# another installation, beside the editable one
ASIDE = rm -rf build $@ && $(INSTALL) --no-deps --target $@ . && rm -rf build

.PHONY: demo test lint bench kernels docs sanitize clean

demo: $(VENV)/talk3d
	$(BIN)/talk3d demo

# two processes of one thread: most tests are small, and those that compile use one core. A file stays in one process
test: export TORCH_CUDA_ARCH_LIST ?= 9.0
test: export OMP_NUM_THREADS ?= 1
test: $(VENV)/talk3d
	$(BIN)/pytest -n 2 --dist loadfile -p no:benchmark

lint: $(VENV)/talk3d $(VENV)/typed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run -Werror $(filter %.h %.cpp %.cu,$(NATIVE))
	cd $(VENV)/typed && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p talk3d

bench: $(VENV)/talk3d
	$(BIN)/pytest benchmarks --ledger

docs: $(VENV)/talk3d
	$(INSTALL) --editable .[docs]
	$(BIN)/python -W error docs/make_api.py

# what the compiled CUDA kernels execute, for every architecture that this installation was built for, and Triton's
kernels: $(VENV)/talk3d
	$(BIN)/python benchmarks/compiled.py
	$(BIN)/python benchmarks/compiled_triton.py

# the C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer; what Python itself leaks is not of interest
sanitize: $(VENV)/sanitized
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=$(abspath $<) \
	$(BIN)/pytest tests/ops -k cpu -m "not compile" --capture=sys

clean:
	rm -rf build *.egg-info talk3d/*.so talk3d/_build.json $(VENV)/talk3d

$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch torchvision "setuptools>=77" ninja
	touch $@

$(VENV)/talk3d: $(VENV)/torch setup.py pyproject.toml $(NATIVE)
	$(INSTALL) --editable .[dev]
	touch $@

# mypy cannot follow an editable installation to talk3d.kernels
.PHONY: $(VENV)/typed
$(VENV)/typed: export TALK3D_BUILD := off
$(VENV)/typed: $(VENV)/torch
	$(ASIDE)

SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined
.PHONY: $(VENV)/sanitized
$(VENV)/sanitized: export TALK3D_BUILD := cpu
$(VENV)/sanitized: export CFLAGS := -g -fno-omit-frame-pointer $(SANITIZERS)
$(VENV)/sanitized: export LDFLAGS := $(SANITIZERS)
$(VENV)/sanitized: $(VENV)/talk3d
	$(ASIDE)
