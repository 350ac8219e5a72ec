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

.PHONY: again quickstart test lint types unit e2e kernels openapi bench clean

$(VENV)/.installed: pyproject.toml constraints.txt install.py $(KERNELS)
	@$(PYTHON) install.py $(VENV)
	@touch $@

# torch first and alone: resolved later, as somebody's dependency, it brings several GB of CUDA.
$(DEV)/.installed: pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install $(PIP_FLAGS) torch==2.13.0
	$(DEV)/bin/pip install $(PIP_FLAGS) -c constraints.txt -e ".[onnx,mlx,dev]"
	touch $@

quickstart: $(VENV)/.installed
	@$(VENV)/bin/hostelry quickstart $(ARGS)

test: lint types unit e2e

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/lint-imports

types: $(DEV)/.installed
	$(DEV)/bin/mypy

unit: $(DEV)/.installed
	$(DEV)/bin/pytest tests -q
	HOSTELRY_KERNELS=0 $(DEV)/bin/pytest tests/backends/onnx tests/contract/test_runners.py -q -k onnx

e2e: $(DEV)/.installed
	$(DEV)/bin/pytest e2e -q

# An editable install builds them, when their sources have changed too.
kernels: $(DEV)/.installed

openapi: $(DEV)/.installed
	$(DEV)/bin/hostelry openapi > openapi/openapi.json

bench: $(DEV)/.installed
	$(DEV)/bin/python -m benchmarks.first_day
	$(DEV)/bin/python -m benchmarks.overhead
	$(DEV)/bin/python -m benchmarks.runners

clean:
	rm -rf $(VENV) $(DEV) build *.egg-info backends/kernels/libhostelry_kernels.*
