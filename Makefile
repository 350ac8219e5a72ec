# Two commands are all the set-up: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
DEV := .venv-dev
PIP_FLAGS := --quiet --disable-pip-version-check
KERNELS := setup.py $(wildcard backends/kernels/source/*)
# A compiler that came after the install builds the kernels after all.
ifneq ($(HOSTELRY_BUILD_KERNELS),0)
  KERNELS += $(if $(wildcard backends/kernels/libhostelry_kernels.*),,$(if $(shell command -v c++),again))
endif

# Hundreds of processes start in a run of the tests, and each would compile every module that it imports anew.
unexport PYTHONDONTWRITEBYTECODE

JOBS ?= $(shell nproc 2> /dev/null || getconf _NPROCESSORS_ONLN)
WITHOUT ?=
SUITE := HOSTELRY_TEST_WITHOUT="$(WITHOUT)" $(DEV)/bin/pytest -q -n $(JOBS) --dist loadgroup -m "not timed"
COVERAGE := --cov=gateway --cov=adapters --cov=backends --cov-report=

.PHONY: again quickstart test lint types machine unit e2e test-timing kernels openapi bench clean

$(VENV)/.installed: pyproject.toml constraints.txt install.py $(KERNELS)
	@$(PYTHON) install.py $(VENV)
	@touch $@

# torch first and alone: resolved later, as somebody's dependency, it brings several GB of CUDA.
$(DEV)/.installed: pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install $(PIP_FLAGS) --no-compile torch==2.13.0
	$(DEV)/bin/pip install $(PIP_FLAGS) --no-compile -c constraints.txt -e ".[onnx,mlx,dev]"
	touch $@

quickstart: $(VENV)/.installed
	@$(VENV)/bin/hostelry quickstart $(ARGS)

test: lint types machine
	$(SUITE) tests e2e $(COVERAGE) --durations=25
	$(DEV)/bin/coverage report --format=total | sed 's/^/coverage of lines, per cent: /'

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/lint-imports

# Side by side; ty needs a tenth of mypy's time, and its output comes after mypy's.
types: $(DEV)/.installed
	@$(DEV)/bin/ty check --python $(DEV) > $(DEV)/ty.log 2>&1 & ty=$$!; \
	$(DEV)/bin/mypy --num-workers 2; failed=$$?; \
	wait $$ty || failed=1; cat $(DEV)/ty.log; exit $$failed

# Says in one sentence what this machine lacks; WITHOUT="postgresql" leaves out what needs it.
machine: $(DEV)/.installed
	HOSTELRY_TEST_WITHOUT="$(WITHOUT)" $(DEV)/bin/python -m tests.machine

unit: machine
	$(SUITE) tests

e2e: machine
	$(SUITE) e2e

# Ratios against their thresholds, to the letter; they want the machine for themselves.
test-timing: machine
	$(DEV)/bin/pytest tests e2e -q -m timed --durations=25

# An editable install builds them, when their sources have changed too.
kernels: $(DEV)/.installed

openapi: $(DEV)/.installed
	$(DEV)/bin/hostelry openapi > openapi/openapi.json

bench: $(DEV)/.installed
	$(DEV)/bin/python -m benchmarks.first_day
	$(DEV)/bin/python -m benchmarks.overhead
	$(DEV)/bin/python -m benchmarks.runners
	$(DEV)/bin/python -m benchmarks.bars

clean:
	rm -rf $(VENV) $(DEV) build *.egg-info backends/kernels/libhostelry_kernels.*
