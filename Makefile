PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One worker for each core, each with one thread.
PYTEST := $(BIN)/pytest --numprocesses=logical --maxprocesses=8 --dist=worksteal --cov --cov-report=
# The shapes and types in the signatures of the mathematics are checked at every call while its own tests run. (Public
# functions above it check their arguments themselves, with messages for people.) It takes three times as long.
MATHEMATICS := tests/ops tests/nn tests/test_state.py
TYPED := --jaxtyping-packages=infini_attention.ops,infini_attention.state,infini_attention.nn.attention,beartype.beartype

# Whichever of them is there: tests/chromium.py looks for the same.
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable
APT := DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0

.PHONY: help setup browser test check demo format docs screenshots peers clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(STAMP) ## create .venv with the package and all that tests and training need

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install -qq -c constraints.txt -e '.[dev,train,plot,eval,harness,serve]'
	touch $@

browser: ## install Chromium with apt, unless there is a browser for the tests of the web page
	@found() { for name in $(BROWSERS); do command -v $$name && return; done; return 1; }; \
	install() { command -v apt-get > /dev/null && $(APT) update && $(APT) install --yes --no-install-recommends chromium; }; \
	found || { install || install; found; } || { echo "no browser, and apt cannot install one: install Chromium or Chrome, or run $(BIN)/playwright install chromium" >&2; exit 1; }

test: check ## check, then run all tests, the fast ones first, and print the coverage
	$(PYTEST) -m "not slow" $(TYPED) $(MATHEMATICS)
	$(PYTEST) -m "not slow" --cov-append $(MATHEMATICS:%=--ignore=%) tests
	$(PYTEST) -m slow --cov-append --cov-report=term

check: $(STAMP) ## lint, formatting, types, and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

demo: $(STAMP) ## recall a key from a million tokens, and write infini-demo.html
	$(BIN)/infini demo

format: $(STAMP) ## format the code and apply the safe fixes
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

docs: $(STAMP) ## write docs/cli.md, docs/families.md and docs/performance.md anew
	$(BIN)/python docs/cli.py
	$(BIN)/python docs/families.py
	$(BIN)/python docs/performance.py

screenshots: browser ## take the pictures of docs/server.md anew
	PYTHONPATH=tests $(BIN)/python docs/screenshots.py

peers: $(STAMP) ## add the implementations that benchmarks compare with
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['peers'], sep='\n')" > .venv/peers.txt
	$(PIP) install -qq -c constraints.txt --no-deps -r .venv/peers.txt

clean: ## remove what builds and tests leave behind, but not .venv
	rm -rf build dist htmlcov .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
