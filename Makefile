# The two commands: `make demo` and `make test`. Everything is installed into .venv; nothing is written outside this folder.
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
# Libraries that would keep settings in the home folder keep them beside the installation.
export MPLCONFIGDIR := $(CURDIR)/.venv/var/matplotlib
export XDG_CONFIG_HOME := $(CURDIR)/.venv/var/config
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: demo test test-all lint install clean gpu gpu-pack
install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -c 'import cv2, torch, torchvision, ray, mlflow, ultralytics' || (echo "the installation does not import; remove .venv and try again" && false)
	touch $@

demo: install
	$(BIN)/python -m jobs.demo --folder $(DEMO)

# Unit tests share the cores, a thread each. Integration tests start Ray, MLflow and S3 servers; two files at a time, for they wait a lot.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -m "not slow and not gpu" -n auto --dist loadfile
	$(BIN)/python -m pytest tests/integration -m "not slow and not gpu" -n 2 --dist loadfile

test-all: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -n auto --dist loadfile
	$(BIN)/python -m pytest tests/integration

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(DEMO) runs build dist

# Checks of the project on a host with a GPU and without a network: docs/gpu-host.md says how to call it. DRY=1 tries it on this machine's CPU.
PARTS ?= tests bench trainings
gpu-pack: install
	$(PYTHON) -m cluster.gpu.pack
gpu:
	$(PYTHON) -m cluster.gpu.run --parts $(PARTS) $(if $(DRY),--dry)
