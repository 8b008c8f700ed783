# make demo, make test, ...: each target creates .venv if it is missing.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: notebook demo mechanisms agreement critical decentralized adascale control \
  critical_batch overhead overhead-page accelerator zoo results site test \
  test-all fuzz soak lint audit

notebook: $(VENV)/ready
	$(RUN) -m pip install --quiet --editable '.[notebook]'
	@echo '== the notebook, in a browser; skip its first cell, as gradiv is installed'
	$(RUN) -m jupyterlab colab/gradiv.ipynb

demo: WORKDIR ?= runs/gradient_diversity
demo: $(VENV)/ready
	@echo '== gradient diversity of a network on digits, into $(WORKDIR)'
	$(RUN) -m experiments.gradient_diversity --workdir=$(WORKDIR)

mechanisms: WORKDIR ?= runs/mechanisms
mechanisms: $(VENV)/ready
	@echo '== masks, noise and rounding of gradients, into $(WORKDIR)'
	$(RUN) -m experiments.gradient_diversity --workdir=$(WORKDIR) \
	  --flagfile=experiments/gradient_diversity/flags/digits_mechanisms.flags

agreement: WORKDIR ?= runs/agreement_filtering
agreement: $(VENV)/ready
	@echo '== agreement filtering on digits with wrong labels, into $(WORKDIR)'
	$(RUN) -m experiments.agreement_filtering --workdir=$(WORKDIR)

critical: WORKDIR ?= runs/critical_parameters
critical: $(VENV)/ready
	@echo '== how far batch size and delay are free, into $(WORKDIR)'
	$(RUN) -m experiments.critical_parameters --workdir=$(WORKDIR)

decentralized: WORKDIR ?= runs/decentralized
decentralized: $(VENV)/ready
	@echo '== decentralized training at learning rates that are too large, into $(WORKDIR)'
	$(RUN) -m experiments.decentralized --workdir=$(WORKDIR)

adascale: WORKDIR ?= runs/adascale
adascale: $(VENV)/ready
	@echo '== learning rates for many workers, into $(WORKDIR) (two minutes)'
	$(RUN) -m experiments.adascale --workdir=$(WORKDIR)

control: WORKDIR ?= runs/batch_size_control
control: $(VENV)/ready
	@echo '== controllers of the batch size on digits, into $(WORKDIR) (five minutes)'
	$(RUN) -m experiments.batch_size_control --workdir=$(WORKDIR)

critical_batch: WORKDIR ?= runs/critical_batch
critical_batch: $(VENV)/ready
	@echo '== the critical batch size, measured and predicted, into $(WORKDIR) (five minutes)'
	$(RUN) -m experiments.critical_batch --workdir=$(WORKDIR)

overhead: WORKDIR ?= runs/overhead
overhead: $(VENV)/ready
	@echo '== the cost of exchanging gradients, and of each step, into $(WORKDIR) (twenty minutes)'
	$(RUN) -m experiments.overhead --workdir=$(WORKDIR)
	@echo '== the cost of per-example statistics (five minutes)'
	$(RUN) -m experiments.overhead.examples --workdir=$(WORKDIR)/examples

overhead-page: WORKDIR ?= runs/overhead
overhead-page: overhead
	@echo '== docs/performance.md, from $(WORKDIR)'
	$(RUN) -m experiments.overhead.page --take=$(WORKDIR)

accelerator: WORKDIR ?= runs/accelerator
accelerator: $(VENV)/ready
	@echo '== the cost on the device that JAX finds, into $(WORKDIR) (eight minutes)'
	$(RUN) -m experiments.overhead.accelerator --workdir=$(WORKDIR)

zoo: WORKDIR ?= runs/zoo
zoo: $(VENV)/ready
	$(RUN) -m pip install --quiet --editable '.[zoo]'
	@echo '== per-example statistics of models that others wrote, into $(WORKDIR) (a quarter of an hour)'
	$(RUN) -m experiments.overhead.zoo --workdir=$(WORKDIR)

results: $(VENV)/ready
	@echo '== docs/papers.md and the table of README.md, from docs/results'
	$(RUN) -m experiments.common.results_page

site: $(VENV)/docs
	@echo '== the site, into build/site (half a minute); open build/site/index.html'
	$(RUN) -m sphinx -W --keep-going -q -c docs -d build/doctrees . build/site

test: $(VENV)/ready
	@echo '== the tests (eight minutes on two cores)'
	$(RUN) -m pytest -m 'not slow and not fuzz' -n 2 --dist loadfile

test-all: $(VENV)/ready
	@echo '== all tests, the slow ones included (half an hour on two cores)'
	$(RUN) -m pytest -m 'not fuzz' -n 2 --dist loadfile

fuzz: export FUZZ_SEED := $(or $(FUZZ_SEED),$(shell \
  $(PYTHON) -c 'import secrets; print(secrets.randbelow(2**31))'))
fuzz: $(VENV)/ready
	@echo '== 2,000 uses of the library and 300 command lines, FUZZ_SEED=$(FUZZ_SEED) (half an hour)'
	$(RUN) -m pytest -m fuzz tests/fuzz -n 2

soak: KILLS ?= 50
soak: $(VENV)/ready
	@echo '== every paper is killed at $(KILLS) random moments (some hours)'
	$(RUN) -m tests.soak --kills=$(KILLS)

lint: $(VENV)/ready
	@echo '== the linter and the type checker'
	$(RUN) -m ruff check .
	$(RUN) -m pyrefly check --python-interpreter-path $(RUN)

audit: $(VENV)/ready
	@echo '== calls that are known to be unsafe, and dependencies with known holes'
	$(RUN) -m pip install --quiet --editable '.[audit]'
	@# B610 and B611 are about Django, and take any method `extra` for its own.
	$(RUN) -m bandit --quiet --recursive --severity-level medium \
	  --skip B610,B611 gradiv experiments examples
	@timeout 120 $(RUN) -m pip_audit --skip-editable --progress-spinner off \
	  || echo 'pip-audit found something, or what it asks cannot be reached'

$(VENV)/ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	  "gradiv needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] \
	  + ". Choose another: make PYTHON=python3.12 ...")'
	@echo '== creating $(VENV) with $(PYTHON) and installing gradiv into it (a minute or two)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[test]'
	@touch $@

$(VENV)/docs: $(VENV)/ready
	@echo '== installing what builds the site into $(VENV)'
	$(RUN) -m pip install --quiet --editable '.[docs]'
	@touch $@
