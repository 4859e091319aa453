# Everything happens in .venv; nothing but Python 3.11+ and make is needed.
#   make demo    install, then run the demo           make lint    ruff, mypy, import-linter
#   make test    install, then run all tests          make bench   install the rivals, run all benchmarks
#   make test-newest   run all tests on the newest Python and the newest packages found (PyTorch may be large)

VENV := .venv
BIN := $(VENV)/bin
NEW_ENOUGH := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	if $$p -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then echo $$p; break; fi; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

NEWEST ?= $(shell for p in python3.15 python3.14 python3.13 python3.12 python3; do \
	if $$p -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then echo $$p; break; fi; done)

.PHONY: demo test test-newest lint bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.stamp
	$(BIN)/bayestl demo

# Two processes of one thread each: more threads would wait for one another.
test: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-newest: $(VENV)-newest/test.stamp
	$(VENV)-newest/bin/python -c "import sys, arviz, torch; print('Python', sys.version.split()[0], 'ArviZ', arviz.__version__, 'PyTorch', torch.__version__)"
	$(VENV)-newest/bin/python -m pytest

$(VENV)-newest/test.stamp: pyproject.toml
	@echo "Making $(VENV)-newest with $(NEWEST), installing the newest of everything ..."
	@$(NEWEST) -m venv $(VENV)-newest
	@$(VENV)-newest/bin/python -m pip --disable-pip-version-check install --quiet --editable ".[$(EXTRAS_test)]" && touch $@

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks.all

$(VENV)/python.stamp:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv was found. Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON) ..."
	@$(PYTHON) -m venv $(VENV) && touch $@

# torch goes first and alone, so that what needs it finds the pinned build installed.
$(VENV)/torch.stamp: $(VENV)/python.stamp constraints.txt
	@echo "Installing PyTorch ..."
	@$(PIP) torch && touch $@

$(VENV)/%.stamp: $(VENV)/torch.stamp pyproject.toml
	@echo "Installing bayestl ($*) ..."
	@$(PIP) --editable ".[$(EXTRAS_$*)]" && touch $@

EXTRAS_demo := demo
EXTRAS_test := data,demo,large,test
EXTRAS_lint := data,demo,large,test,lint
EXTRAS_bench := data,demo,large,test,benchmark

clean:
	rm -rf $(VENV) $(VENV)-newest bayestl-demo
