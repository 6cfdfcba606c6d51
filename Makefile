# Two commands do all on a fresh machine: `make run` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SAMPLE ?= 400
SEED ?= 20261201
FILMS ?= ../shared/data/images.csv
RUNS ?= runs/default-model
JOBS ?= 3
WORKER_SIZE := 3.2 GB
DEVELOP_SIZE := 0.2 GB
DEBIAN_PEERS := orthanc orthanc-dicomweb dcmtk dicom3tools libpixelmed-java sqlite3

.PHONY: default-model view-model train-demo run install develop test test-long soak sbom mutants check format docs lock peers bench wheel clean

run: install ## Start the service with its defaults: SQLite, loopback, ./var
	$(BIN)/cxr serve

install: $(VENV)/.worker ## Create .venv with what the service runs on; the command is .venv/bin/cxr

develop: $(VENV)/.develop ## Add what tests, checks and documentation need

$(VENV)/.worker: locks/worker.txt locks/build.txt locks/pip.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python {v[0]}.{v[1]} found; 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.11 install")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@locks/install.sh $(BIN) "the service with its worker and training, $(WORKER_SIZE) on disk" locks/worker.txt locks/build.txt
	@touch $@

$(VENV)/.develop: $(VENV)/.worker locks/dev.txt
	@locks/install.sh $(BIN) "the tools of the tests, $(DEVELOP_SIZE) more" locks/dev.txt
	@touch $@

peers: ## Install the Debian packages that the tests talk to, where we may
	@tests/install-peers $(DEBIAN_PEERS)

test: develop peers ## The whole default suite, real peers included, in JOBS processes
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder -m "not long and not soak"

test-long: develop peers ## Slow checks: peers x all files, PixelMed
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder -m "long and not soak"

train-demo: install ## The whole path of training on real public films, at small size; DEMO_DATA names their folder
	docs/example/train-demo.sh

soak: develop peers ## The longest checks: kills and broken input by the thousand; bounded, loopback only, not in CI
	$(BIN)/pytest -m soak

check: develop ## Format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: develop
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: develop ## Write the pages and tables of docs/ that come from the code
	$(BIN)/python docs/generate.py

lock: ## Renew locks/ (needs uv); hashes of every file, extras kept (older pips need them), no index host
	for set in "pip --group pip" "dev pyproject.toml --extra worker --group dev" "build --group build" "bench --group bench" \
	           "mutants --group mutants --constraint locks/dev.txt" \
	           "listener pyproject.toml" "worker pyproject.toml --extra worker" "gpu pyproject.toml --extra worker --extra gpu"; do \
	  read -r name what <<<"$$set"; \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate \
	    --no-emit-index-url $$what --output-file locks/$$name.txt || exit 1; \
	done

default-model: install ## Train the default model from the shared films, FILMS=.../images.csv; goes on where it was stopped
	BIN=$(BIN) configs/default-model.sh $(FILMS) $(RUNS)

view-model: install ## Train the view model from the shared films and DICOM files, beside FILMS
	$(BIN)/python -m training.shipped.view_manifest $(dir $(FILMS)) runs/view/manifest.csv
	TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 $(BIN)/cxr train view runs/view/manifest.csv -o runs/view/run --cache runs/view/cache --note configs/view-note.md

sbom: develop ## Write what each image holds (CycloneDX, from its lock) and the licences of it into dist/
	mkdir -p dist
	for name in listener worker gpu; do \
	  $(BIN)/cyclonedx-py requirements locks/$$name.txt --pyproject pyproject.toml --mc-type application \
	    --output-reproducible --no-validate --of JSON --output-file dist/sbom-$$name.cdx.json || exit 1; \
	done
	$(BIN)/pip-licenses --from=mixed --with-urls --format=markdown --output-file dist/licences.md \
	  --packages $$(sed -n 's/^\([A-Za-z0-9._-]*\)\(\[[^]]*\]\)*==.*/\1/p' locks/worker.txt)

wheel: develop ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

bench: develop $(VENV)/bench-site/.installed ## Measure; numbers go into bench/README.md by hand
	$(BIN)/python bench/run.py

# The decoders that pydicom recommends: what ours are measured against, out of sight of everything else.
$(VENV)/bench-site/.installed: locks/bench.txt
	$(BIN)/python -m pip install --quiet --no-input --require-hashes --no-deps --upgrade --target $(@D) --requirement $<
	touch $@

mutants: develop $(VENV)/mutants-site/.installed ## How many small changes of the source the tests notice: SAMPLE places (all if empty), SEED; hours, not in CI
	mkdir -p runs/mutants
	test -f runs/mutants/tests.xml || COVERAGE_FILE=runs/mutants/coverage $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile \
	  --no-loadscope-reorder -m "not long and not soak" tests/unit tests/integration --cov-config=tests/mutation/coverage.toml \
	  --cov --cov-context=test --cov-report= --junitxml=runs/mutants/tests.xml || { rm -f runs/mutants/tests.xml; exit 1; }
	PYTHONPATH=$(VENV)/mutants-site $(BIN)/python tests/mutation/run.py --sample "$(SAMPLE)" --seed $(SEED)

$(VENV)/mutants-site/.installed: locks/mutants.txt
	$(BIN)/python -m pip install --quiet --no-input --require-hashes --no-deps --upgrade --target $(@D) --requirement $<
	touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache
