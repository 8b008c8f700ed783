# make demo, make test ...: each makes .venv by itself where it is missing.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: demo mechanisms agreement critical decentralized overhead test test-slow \
  lint

demo: WORKDIR ?= runs/gradient_diversity
demo: $(VENV)/ready
	@echo '== the gradient diversity of a network on digits, into $(WORKDIR)'
	$(RUN) -m experiments.gradient_diversity --workdir=$(WORKDIR)

mechanisms: WORKDIR ?= runs/mechanisms
mechanisms: $(VENV)/ready
	@echo '== what masks, noise and rounding of gradients do, into $(WORKDIR)'
	$(RUN) -m experiments.gradient_diversity --workdir=$(WORKDIR) \
	  --flagfile=experiments/flags/gradient_diversity_digits_mechanisms.flags

agreement: WORKDIR ?= runs/agreement_filtering
agreement: $(VENV)/ready
	@echo '== agreement filtering on digits with wrong labels, into $(WORKDIR)'
	$(RUN) -m experiments.agreement_filtering --workdir=$(WORKDIR)

critical: WORKDIR ?= runs/critical_parameters
critical: $(VENV)/ready
	@echo '== how far batches and delays are free, into $(WORKDIR)'
	$(RUN) -m experiments.critical_parameters --workdir=$(WORKDIR)

decentralized: WORKDIR ?= runs/decentralized
decentralized: $(VENV)/ready
	@echo '== decentralised training at rates that are too large, into $(WORKDIR)'
	$(RUN) -m experiments.decentralized --workdir=$(WORKDIR)

overhead: WORKDIR ?= runs/overhead
overhead: $(VENV)/ready
	@echo '== what the exchange of gradients costs, into $(WORKDIR) (a minute)'
	$(RUN) -m experiments.overhead --workdir=$(WORKDIR)
	@echo '== what the statistics of single examples cost (four minutes)'
	$(RUN) -m experiments.overhead_examples --workdir=$(WORKDIR)

test: $(VENV)/ready
	@echo '== the tests (a quarter of an hour on two cores)'
	$(RUN) -m pytest -m 'not slow' -n 2 --dist loadfile

test-slow: $(VENV)/ready
	@echo '== the long checks (a quarter of an hour on two cores)'
	$(RUN) -m pytest -m slow

lint: $(VENV)/ready
	@echo '== the linter'
	$(RUN) -m flake8 gradiv experiments tests

$(VENV)/ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	  "gradiv needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] \
	  + ". Say which to use: make PYTHON=python3.12 ...")'
	@echo '== making $(VENV) with $(PYTHON) and installing gradiv into it (about a minute)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[test]'
	@touch $@
