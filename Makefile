# make demo: a real search in under three minutes.  make test: everything.  Both set themselves up in .venv.
# make soak: every fault in its full count, for hours.
PYTHON ?= python3
# installed before everything else; TORCH="torch==2.13.0+cpu --index-url ..." or TORCH=torch to choose another build
TORCH ?= torch==2.13.0
NEWEST ?= transformers==5.23.0
OLDEST ?= transformers==4.56.2
# tests run in so many processes
JOBS ?= 2
BIN = .venv/bin
OLD = .venv-oldest/bin
SHARED = --numprocesses $(JOBS) --dist loadfile
export TOKENIZERS_PARALLELISM = false
export HF_HUB_OFFLINE = 1
export WANDB_MODE = offline
# compiled once, at first use: pip need not compile what is never imported (see --no-compile)
export PYTHONDONTWRITEBYTECODE =
PIP = -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: demo test soak setup browser lint check-newest check-oldest check-plugins bench docs dist backends-table clean

demo: setup
	$(BIN)/python examples/demo.py

test: lint check-newest check-oldest check-plugins docs

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "tunesmith needs Python >= 3.10: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) $(TORCH)
	$(BIN)/python $(PIP) $(NEWEST) -e '.[transformers]'
	touch $@

# what only tests, linters and exports need comes second, so that the demo need not wait for it
.venv/ready-to-test: .venv/ready
	$(BIN)/python $(PIP) $(NEWEST) -e '.[transformers,export,sigopt,wandb,test]'
	$(BIN)/python $(PIP) --no-deps sigoptlite libsigopt sweeps  # their metadata ask for NumPy 1
	touch $@

# further environments share torch and all other packages with the first
define sharing
	$(PYTHON) -m venv $(1)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"), "$(CURDIR)/src", sep="\n")' > $(1)/shared.txt
	cp $(1)/shared.txt "$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
endef

# the second has its own transformers
.venv-oldest/ready: .venv/ready-to-test
	$(call sharing,.venv-oldest)
	$(OLD)/python $(PIP) $(OLDEST) 'datasets<5'  # later ones need what transformers 4 does not bear
	touch $@

# the third has loggers that would report for every Trainer where they are installed, and DeepSpeed, which accelerate loads
.venv-plugins/ready: .venv/ready-to-test
	$(call sharing,.venv-plugins)
	.venv-plugins/bin/python $(PIP) mlflow-skinny trackio deepspeed
	touch $@

# the report's test wants Chromium: installed where that is possible without asking, else the test says that it is skipped
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || true

lint: .venv/ready-to-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-newest: .venv/ready-to-test browser
	$(BIN)/python -m pytest tests $(SHARED)

check-oldest: .venv-oldest/ready
	$(OLD)/python -c 'import transformers; print("transformers", transformers.__version__)'
	$(OLD)/python -m pytest tests/test_trainer.py tests/test_trainer_resume.py tests/test_trainer_workers.py tests/test_trainer_ranks.py tests/test_hyperparameters.py tests/test_objective.py tests/test_process_state.py tests/test_arguments.py tests/cli/test_run_trainer.py $(SHARED)

check-plugins: .venv-plugins/ready
	.venv-plugins/bin/python -m pytest tests/test_loggers.py tests/test_deepspeed.py $(SHARED)

# the faults' tests with their full counts; hours
soak: .venv/ready-to-test
	TUNESMITH_SOAK=1 TUNESMITH_KILLS=1000 $(BIN)/python -m pytest tests/faults tests/test_record_kill.py \
	  tests/runners/test_ranks_launched.py tests/runners/test_worker_ranks.py

bench: .venv/ready-to-test
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/inline_trial.py

# the site in docs-site/, which loads nothing from outside; its own environment, since only this needs it
docs: .venv-docs/ready
	.venv-docs/bin/mkdocs build --quiet
	@echo "docs-site/index.html"

.venv-docs/ready:
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python $(PIP) "mkdocs-material>=9.5" "build>=1.2"
	touch $@

# wheel and sdist in dist/, and a search with what they install in an empty environment
dist: .venv-docs/ready
	rm -rf dist .venv-empty
	.venv-docs/bin/python -m build --outdir dist . >/dev/null
	$(PYTHON) -m venv .venv-empty
	.venv-empty/bin/python $(PIP) dist/*.whl
	cd .venv-empty && bin/tunesmith --help && bin/python -c 'import tunesmith; \
	  study = tunesmith.search(lambda t: t.suggest_float("x", 0, 1), 12, directory="study", progress=False); \
	  print(study)' && bin/tunesmith show study
	rm -rf .venv-empty

# docs/backends.md, from the results of the tests behind it
backends-table: .venv/ready-to-test
	$(BIN)/python tests/backends/table.py

clean:
	rm -rf .venv .venv-oldest .venv-plugins .venv-docs .venv-empty dist docs-site demo-output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
