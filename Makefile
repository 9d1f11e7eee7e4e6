# make demo: train, evaluate and see SOLOv2 on generated shapes. make test: lint and all tests.
# Both start from Python 3.10 to 3.13 and make, and keep what they install in .venv.
# make gpu: tests and benchmarks of a machine with a GPU, with a Python that has all they need.
PYTHON ?= python3
# The tested release; TORCH=... takes another one, or a local wheel.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n 2
GPU_OUT ?= work_dirs/benchmark/gpu

.PHONY: demo test gpu lint format clean

demo: $(VENV)/installed
	$(BIN)/python tools/demo.py $(DEMO_ARGS)

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

gpu:
	PYTHON='$(PYTHON)' .ci/gpu '$(GPU_OUT)'

lint: $(VENV)/installed
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --diff
	$(BIN)/python -m mypy
	$(BIN)/python -m codespell_lib

format: $(VENV)/installed
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	    v in ((3, 10), (3, 11), (3, 12), (3, 13)) or sys.exit("error: Python 3.10 to 3.13 is needed, not %d.%d: make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet '$(TORCH)' --editable '.[lite,mim,test,lint]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
