# Two commands are all the set-up: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
DEV := .venv-dev
PIP_FLAGS := --quiet --disable-pip-version-check
KERNELS := setup.py $(wildcard backends/kernels/source/*)

.PHONY: quickstart test lint types unit e2e kernels openapi bench clean

$(VENV)/.installed: pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install $(PIP_FLAGS) -c constraints.txt -e ".[quickstart]"
	touch $@

# torch first and alone: resolved later, as somebody's dependency, it brings several GB of CUDA.
$(DEV)/.installed: pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install $(PIP_FLAGS) torch==2.13.0
	$(DEV)/bin/pip install $(PIP_FLAGS) -c constraints.txt -e ".[onnx,mlx,dev]"
	touch $@

quickstart: $(VENV)/.installed
	$(VENV)/bin/hostelry quickstart $(ARGS)

test: lint types unit e2e

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/lint-imports

# Side by side; ty needs a tenth of mypy's time, and its output comes after mypy's.
types: $(DEV)/.installed
	@$(DEV)/bin/ty check --python $(DEV) > $(DEV)/ty.log 2>&1 & ty=$$!; \
	$(DEV)/bin/mypy --num-workers 2; failed=$$?; \
	wait $$ty || failed=1; cat $(DEV)/ty.log; exit $$failed

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
