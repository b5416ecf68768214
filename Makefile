# The two commands: `make demo` and `make test`. Everything is installed into .venv; nothing is written outside this folder.
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
# Libraries that would keep settings in the home folder keep them beside the installation.
export MPLCONFIGDIR := $(CURDIR)/.venv/var/matplotlib
export XDG_CONFIG_HOME := $(CURDIR)/.venv/var/config
export MLFLOW_DISABLE_TELEMETRY := true
# The tests start some hundred processes, and each would compile all modules again where Python may not keep them.
unexport PYTHONDONTWRITEBYTECODE

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

# A thread for each process. A process that has done its unit tests takes over half of those that wait for another. Integration tests wait a lot for Ray, MLflow and S3 servers, so there are more processes than cores.
UNIT := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -n auto --dist worksteal
INTEGRATION := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/integration
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

test: install
	$(UNIT) -m "not slow and not gpu"
	$(INTEGRATION) $(PARALLEL) -m "not slow and not gpu"

# What is slow starts clusters of its own, two at a time: 23 to 26 minutes on two cores.
test-all: install
	$(UNIT)
	$(INTEGRATION) $(PARALLEL) -m "not slow and not gpu"
	$(INTEGRATION) -n 2 --dist loadfile --no-loadscope-reorder -m "slow or gpu"

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
