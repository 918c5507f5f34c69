# make demo, make test: from a fresh clone with Python and a C++20 compiler, each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# nvcc only costs time where nothing can run its output; `make cuda` compiles the CUDA sources anyway.
DCLS_CUDA ?= $(if $(shell command -v nvidia-smi),AUTO,OFF)

# CI turns warnings into errors (.ci/run); another compiler than CI's may know more of them.
DCLS_WARNINGS_AS_ERRORS ?= OFF

# Each of two builds has steps that one core takes alone. Not more: a compiler takes half a gigabyte.
MAKEFLAGS += --jobs=2

CPP := $(wildcard csrc/*.* csrc/*/*.* csrc/*/*/*.*)
LINTED := dcls_ops python tests benchmarks examples

.PHONY: demo test test-cuda sanitize-cuda lint format bench wheel cuda clean

demo: $(VENV)/installed $(VENV)/demo
	$(BIN)/python examples/demo.py

# Threads that wait by spinning make small operators slow where another process wants the core.
test: export OMP_WAIT_POLICY := passive
test: $(VENV)/installed $(VENV)/oracle.installed $(VENV)/cuda_on_cpu.built $(VENV)/cpu_sanitized.built
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# On a machine with a GPU. CUDA_PYTHON may be another Python than .venv's: one with its own torch, pytest, hypothesis, and
# dcls_ops installed from a wheel. -P, so that the sources here do not hide it.
CUDA_PYTHON ?= $(BIN)/python
CUDA_SETUP := $(if $(filter $(BIN)/python,$(CUDA_PYTHON)),$(VENV)/installed)

test-cuda: $(CUDA_SETUP)
	$(CUDA_PYTHON) -P -m pytest -m cuda tests/cuda

# PyTorch would hand out parts of large allocations, in which the sanitizer sees no bounds. Races are looked for in our own
# kernels only: its libraries synchronise in ways that the tools may not know. initcheck must see who writes what we read.
sanitize-cuda: $(CUDA_SETUP)
	for tool in memcheck "racecheck --kernel-regex kns=dcls" initcheck "synccheck --kernel-regex kns=dcls"; do \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
			$(CUDA_PYTHON) -P tests/cuda/sanitize.py || exit 1; \
	done

lint: $(VENV)/requirements
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

format: $(VENV)/requirements
	$(BIN)/ruff check --fix $(LINTED)
	$(BIN)/ruff format $(LINTED)
	$(BIN)/clang-format -i $(CPP)

# Up to an hour on two cores; one of them: $(BIN)/python benchmarks/run.py --case NAME, or --model NAME.
bench: $(VENV)/installed $(VENV)/oracle.installed
	$(BIN)/python benchmarks/run.py --output benchmarks/results --page docs/performance.md --summary README.md

# With both libraries where nvcc is found; CUDA kernels for every architecture that it and they know. Beside it, the
# distribution that takes the original's name.
wheel: $(VENV)/requirements
	$(BIN)/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist ./python
	$(BIN)/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist . -Ccmake.define.DCLS_CUDA=AUTO \
		-Ccmake.define.DCLS_CUDA_ARCHITECTURES="75;80;86;89;90;100;120"

# Compiles the CUDA sources and tabulates their machine code. Fails without nvcc, and if a kernel spills registers, uses
# atomics, or has fewer multiply-adds in its hot loop than benchmarks/cuda_kernels.py wants.
cuda: $(VENV)/requirements
	$(BIN)/cmake -S . -B build/cuda -G Ninja -DDCLS_CUDA=ON -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
		-DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DDCLS_WARNINGS_AS_ERRORS=$(DCLS_WARNINGS_AS_ERRORS)
	$(BIN)/cmake --build build/cuda --target dcls_cuda
	$(BIN)/python benchmarks/cuda_kernels.py build/cuda/libdcls_cuda.so

clean:
	rm -rf $(VENV) build dist demo_output

# The steps of setting up, each a stamp file.
$(VENV)/requirements: requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# --no-build-isolation: the library is built against the torch of .venv, not against a second copy.
$(VENV)/installed: $(VENV)/requirements CMakeLists.txt pyproject.toml $(CPP)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable . \
		-Ccmake.define.DCLS_CUDA=$(DCLS_CUDA) -Ccmake.define.DCLS_WARNINGS_AS_ERRORS=$(DCLS_WARNINGS_AS_ERRORS)
	touch $@

$(VENV)/demo: $(VENV)/installed requirements-demo.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-demo.txt
	touch $@

# What tests run on the CPU besides the installed library, without CUDA.
BUILD_FOR_TESTS := $(BIN)/cmake -S . -G Ninja -DDCLS_CUDA=OFF -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	-DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DDCLS_WARNINGS_AS_ERRORS=$(DCLS_WARNINGS_AS_ERRORS)

# The CUDA sources compiled as C++ (tests/cuda_on_cpu): once as they are, once with sanitizers.
CUDA_ON_CPU := $(BUILD_FOR_TESTS) -DDCLS_CUDA_ON_CPU=ON
$(VENV)/cuda_on_cpu.built: $(VENV)/requirements CMakeLists.txt $(CPP) $(wildcard tests/cuda_on_cpu/*)
	$(CUDA_ON_CPU) -B build/cuda_on_cpu -DCMAKE_CXX_FLAGS_RELEASE=-O2
	$(BIN)/cmake --build build/cuda_on_cpu --target dcls_cuda_on_cpu
	$(CUDA_ON_CPU) -B build/cuda_on_cpu_sanitized -DDCLS_SANITIZE=address,undefined
	$(BIN)/cmake --build build/cuda_on_cpu_sanitized --target dcls_cuda_on_cpu
	touch $@

# The CPU library with sanitizers (tests/sanitizers.py).
$(VENV)/cpu_sanitized.built: $(VENV)/requirements CMakeLists.txt $(CPP)
	$(BUILD_FOR_TESTS) -B build/cpu_sanitized -DDCLS_SANITIZE=address,undefined
	$(BIN)/cmake --build build/cpu_sanitized --target dcls
	touch $@

# The original package, which tests compare with; not on Python's path, because it owns the folder name DCLS.
$(VENV)/oracle.installed: $(VENV)/requirements
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/oracle DCLS==0.1.1
	touch $@
