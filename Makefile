# Nothing but python3 and make is needed: every target makes .venv and installs what it uses, once.
#   make demo       a shipped teacher becomes a tiny student on LunarLander-v3
#   make test       everything but the slow tests, two at a time
#   make test-all   the slow ones too
#   make lint       ruff, the formatter and mypy
#   make bench      the tables of docs/benchmarks.md
#   make clean      removes what the others made, never your own runs
# PIP_EXTRA_ARGS goes to pip as it is (a CPU-only index for torch, say).

PYTHON ?= python3
PIP_EXTRA_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# Small networks run slower, not faster, on more than one thread.
ENV := OMP_NUM_THREADS=1
PYTEST := $(ENV) $(BIN)/python -m pytest -n 2
DEMO := runs/demo-$(shell date +%Y%m%d-%H%M%S)

.DELETE_ON_ERROR:
.PHONY: demo test test-all lint bench clean

$(VENV)/.made:
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) has no venv module: install it (python3-venv), or make PYTHON=..." >&2; exit 1; }
	@touch $@

# pip says nothing unless it fails; the stamp makes a second call free.
define install
	@echo "installing policykd[$(1)] into $(VENV) (a minute or two)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_EXTRA_ARGS) -e ".[$(1)]"
	@touch $@
endef

$(VENV)/.user: $(VENV)/.made pyproject.toml constraints.txt
	$(call install,envs)

$(VENV)/.developer: $(VENV)/.made pyproject.toml constraints.txt
	$(call install,contrib$(comma)dev$(comma)envs$(comma)minari$(comma)mujoco$(comma)plots$(comma)trees)
	@touch $(VENV)/.user

comma := ,

demo: $(VENV)/.user
	@$(ENV) $(BIN)/policykd distill agents/lunarlander-ppo --hidden 16,16 --out $(DEMO)
	@echo "look at it: $(BIN)/tensorboard --logdir $(DEMO), then open http://localhost:6006"

test: $(VENV)/.developer
	@$(PYTEST) -m "not slow"

test-all: $(VENV)/.developer
	@$(PYTEST)

lint: $(VENV)/.developer
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet || { echo "run: $(BIN)/ruff format" >&2; exit 1; }
	@$(BIN)/mypy

bench: $(VENV)/.developer
	@for script in frontier honest retention small speed together memory; do $(ENV) $(BIN)/python tests/benchmarks/$$script.py || exit 1; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./.git/*" -prune -exec rm -rf {} +
	rm -rf runs/demo-*
