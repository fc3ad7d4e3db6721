# make demo    install; train, compile, build, run, verify and measure on real images; report in runs/
#              DATASET=elpv: photographs of solar cells and a pretrained network
# make test    install; run all checks
# make check   run all checks in the existing environment
# make format  rewrite formatting with ruff

PYTHON ?= python3
DATASET ?= cluttered-digits
DATA ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check format

demo: $(VENV)/installed $(if $(filter elpv,$(DATASET)),$(VENV)/installed-elpv)
	$(BIN)/python -m benchmarks demo --dataset $(DATASET) $(if $(DATA),--data $(DATA))

test: $(VENV)/installed check

check:
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/mypy jetson/acceptance.py
	$(BIN)/lint-imports
	$(BIN)/vermin --quiet --no-tips --target=3.10- edge calibration compile benchmarks jetson/acceptance.py
	$(BIN)/python -m tests.support.house
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadscope

format:
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV): about 2 GB, some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,rtx]'
	touch $@

$(VENV)/installed-elpv: $(VENV)/installed
	@echo "installing photographs of solar cells: 91 MB, CC-BY-NC-SA-4.0, not for commercial use"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[elpv]'
	touch $@
