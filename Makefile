# Each target sets up .venv by itself; a second call does not install again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LABEL_VENV := .venv-label
LABEL_READY := $(LABEL_VENV)/.ready
PACS := orthanc orthanc-dicomweb dcmtk dicom3tools chromium
NO_APT := There is no apt-get here. Install by other means: Orthanc with its DICOMweb plugin, dcmtk, dicom3tools, Chromium.
AS_ROOT = $(shell test "$$(id -u)" = 0 || echo sudo)

.PHONY: demo test test-all bench docs lint label-venv pacs clean

$(READY): setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

# All but torch without dependencies: each is named in env/label.txt, since pip's resolver takes many minutes over MONAI
# Label's bounds. Torch's differ from build to build; a CUDA build needs NVIDIA's packages.
$(LABEL_READY): env/label.txt env/label_mends.py setup.py
	$(PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' env/label.txt)"
	$(LABEL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r env/label.txt
	$(LABEL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(LABEL_VENV)/bin/python env/label_mends.py
	touch $(LABEL_READY)

## demo: segment both hippocampi of a template head; nothing is downloaded but packages
demo: $(READY)
	$(BIN)/neurobundle demo -o demo

## test: the suite that every change must pass (under 12 minutes on 2 cores; each worker keeps to one of them)
test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/build.py --check
	OMP_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1 $(BIN)/pytest -n 2 -m "not slow"

## test-all: what is left: long registrations, kill tests, subprocesses, the wheel
test-all: $(READY)
	OMP_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m slow

## bench: our path against stock MONAI, side by side; each ends with one line of JSON
bench: $(READY)
	for file in $(filter-out benchmarks/harness.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$file || exit 1; done

## docs: the pages as HTML in docs/_site
docs: $(READY)
	$(BIN)/python docs/build.py

## label-venv: an environment of its own with a MONAI Label server (3 GB); tests/label starts one from it
label-venv: $(LABEL_READY)

## pacs: for tests/pacs: an archive (Orthanc with DICOMweb), dcmtk, dciodvfy and Chromium, from Debian's packages
# Debian starts Orthanc as a service with its package, and its DICOM port listens on every address; the tests start their own.
pacs:
	@command -v apt-get > /dev/null || { echo "$(NO_APT)" >&2; exit 1; }
	test -x /usr/sbin/Orthanc || test ! -d /run/systemd/system || $(AS_ROOT) systemctl mask orthanc.service
	$(AS_ROOT) apt-get update
	$(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(PACS)

lint: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LABEL_VENV) demo docs/_site build dist src/*.egg-info
