# make run      build the accelerator for a board, then train on the simulated board
# make test     everything that must hold, in less than 15 minutes on two cores
# make regress  longer: cocotb on the generated Verilog, place and route of several designs; a run that
#               was stopped goes on where it was
# make clean    removes what was built; .venv stays
#
# PYTHON names the Python (3.11 or newer) that .venv is made with. EXTRAS names extras of
# pyproject.toml to install too: make test EXTRAS="torch plot" tests the PyTorch front end as well.

PYTHON ?= python3
EXTRAS ?=
VENV := .venv
BIN := $(VENV)/bin
SPACE := $() $()
STAMP := $(VENV)/.stamp$(subst $(SPACE),-,$(addprefix $(SPACE),$(strip $(EXTRAS))))

# What to install: the pins of pyproject.toml. Our own packages run from the checkout.
REQUIREMENTS = import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
  print(*p["project"]["dependencies"], *p["dependency-groups"]["test"], \
  *(r for extra in sys.argv[1:] for r in p["project"]["optional-dependencies"][extra]), sep="\n")
CHECK_VERSION = import sys; sys.exit("Python 3.11 or newer is needed; PYTHON=... names another" \
  if sys.version_info < (3, 11) else 0)

.PHONY: run test regress clean

run: $(STAMP)
	$(BIN)/python -m hdl.build --bits 4
	$(BIN)/python -m host.train --data digits --model mlp --bits 4 --device sim: --epochs 5

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -n auto

regress: $(STAMP)
	$(BIN)/python -m pytest -n auto -m regress --resume build/regress.txt

clean:
	rm -rf build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs -r rm -rf

$(STAMP): pyproject.toml
	$(PYTHON) -c '$(CHECK_VERSION)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c '$(REQUIREMENTS)' $(EXTRAS) > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	touch $@
