# Everything runs in .venv, made on first use. `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?=
DATA ?=
ONLY ?=
DEMO_ARGS := $(if $(MODEL),--model $(MODEL)) $(if $(DATA),--data $(DATA))

BUILD_OPS := DS_ACCELERATOR=cpu MAX_JOBS=1 $(BIN)/python tests/build_ops.py >/dev/null 2>&1

.PHONY: demo test ops lint types check ds_configs docs notebooks soak screenshots benchmark clean

demo: $(VENV)/.train  ## plan, launch, fine-tune, export and compare a small LLaMA (or MODEL=... DATA=...)
	$(BIN)/toolkit demo $(DEMO_ARGS)

# Compiling DeepSpeed's ops takes four minutes of a core; tests on ranks need them, and measure how fast the machine is.
# The README's commands take minutes too: in the order given they begin early, and nobody waits for them at the end.
test: $(VENV)/.dev  ## the whole test suite
	$(BUILD_OPS) & \
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	  tests/conventions tests/unit tests/gpu && wait
	$(BIN)/pytest tests/ranks tests/hosts

ops: $(VENV)/.dev  ## compile DeepSpeed's ops that tests need; `make test` does it too
	$(BUILD_OPS)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev
	$(BIN)/mypy

check: lint types test  ## what CI runs

ds_configs: $(VENV)/.train  ## write ds_configs/ again
	$(BIN)/python -m toolkit.emitters.scenarios ds_configs

docs: $(VENV)/.dev  ## the documentation, as pages that need no server: build/site/index.html
	$(BIN)/mkdocs build --strict

notebooks: $(VENV)/.dev  ## run the notebooks and keep what they print and draw; ONLY=01 for one
	$(BIN)/python notebooks/remake.py $(ONLY)

soak: $(VENV)/.dev  ## 200 random faults, and every layout's checkpoint under every other: an hour
	$(BIN)/pip install --quiet --progress-bar off -c constraints.txt -e '.[soak]'
	$(BIN)/pytest -m soak
	PYTHONPATH=tests $(BIN)/python tests/soak.py --faults 200
	PYTHONPATH=tests $(BIN)/python tests/soak.py --pairs

screenshots: $(VENV)/.dev  ## pictures of a report for docs/images/, from the demo and a second run with another rate
	$(BIN)/toolkit demo --max-steps 120
	$(BIN)/toolkit plan --recipe runs/demo/recipe.yaml --cluster runs/demo/inputs/machine.yaml --overwrite \
	  --set optimizer.learning_rate=0.003 --set evaluation.every_steps=20 -o runs/other
	$(BIN)/toolkit launch runs/other
	$(BIN)/python tests/screenshot.py docs/images/report.png runs/other --height 1840
	$(BIN)/python tests/screenshot.py docs/images/report-several.png runs/demo runs/other --height 1330 --dark

benchmark: $(VENV)/.train  ## tokens/s of the training loop against a bare DeepSpeed loop
	$(BIN)/python benchmarks/overhead.py

$(VENV)/.train: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar off -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/pip install --quiet --progress-bar off -c constraints.txt -e '.[train,megatron,optimizers,quant,notebook,docs,dev]'
	touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
