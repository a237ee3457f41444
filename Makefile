# make demo: the whole job on the embedded dataset.  make test: all tests.
# make lint: what ruff says of the code and its format.  make typecheck: what basedpyright says.
# make demo-teacher: the weights of the demo's teacher, anew.
# make screenshots: docs/pictures/page.png anew, from the demo's page, with Chromium.
# make torture: docs/torture.md's tests at full size.
# make mutants: docs/mutants.md anew: faults in the source, and whether a test notices.
# All of these make .venv first. These two do not:
# make test-lowest: all tests on Python 3.11 with the lowest versions that pyproject.toml declares.
# make lock: the files in requirements/, anew.

PYTHON ?= python3
PYTHON311 ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
LOWEST := .venv-lowest
INSTALL := -m pip install --quiet --disable-pip-version-check
THIS := --no-deps --no-build-isolation --editable .

# The demo's teacher comes with the package. Its students have 1,200 images with labels and SEEDS seeds
# from SEED on; the first two are trained by the script, the others in a sweep.
DEMO := runs/demo
SEED := 0
SEEDS := 5
NETS := kdcache.models.small_resnets
TEACHER := $(NETS):wide_half_resnet8
WEIGHTS := kdcache/models/shapes_teacher/teacher.pt
STUDENT := --student $(NETS):half_resnet8 --epochs 12 --batch-size 64

.PHONY: install lint typecheck test test-lowest lock demo demo-teacher screenshots torture mutants

install: $(VENV)/installed

# every package with its hash; then the project itself, which has none
$(VENV)/installed: pyproject.toml requirements/locked.txt requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) $(INSTALL) --require-hashes -r requirements/locked.txt -r requirements/dev.txt
	$(RUN) $(INSTALL) $(THIS)
	touch $@

$(LOWEST)/installed: pyproject.toml requirements/lowest.txt
	$(PYTHON311) -m venv $(LOWEST)
	$(LOWEST)/bin/python $(INSTALL) --require-hashes -r requirements/lowest.txt
	$(LOWEST)/bin/python $(INSTALL) $(THIS)
	touch $@

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

typecheck: install
	$(RUN) -m basedpyright

test: install
	$(RUN) -m pytest

test-lowest: $(LOWEST)/installed
	$(LOWEST)/bin/python -m pytest

LOCK := uv pip compile --quiet --generate-hashes --python-version 3.11
EXTRAS := pyproject.toml --extra test --extra report --extra onnx --extra safetensors --extra tensorboard --extra timm --extra search
# the lowest versions afresh: uv would keep those that the file names
lock:
	rm -f requirements/lowest.txt
	$(LOCK) --universal $(EXTRAS) --output-file requirements/locked.txt
	$(LOCK) --universal --constraint requirements/locked.txt requirements/dev.in --output-file requirements/dev.txt
	$(LOCK) --resolution lowest-direct --constraint requirements/lowest-limits.txt $(EXTRAS) \
	    --output-file requirements/lowest.txt

# threads that wait for each other must not spin: on a busy machine that takes four times the processor time
demo: export OMP_WAIT_POLICY := passive
demo: install
	rm -rf $(DEMO)/students
	$(RUN) precompute_teacher.py --dataset shapes --teacher $(TEACHER) --teacher-weights $(WEIGHTS) \
	    --augment crop-flip --views 8 --seed $(SEED) --cache $(DEMO)/teacher.h5 --restart
	$(RUN) train_student.py --cache $(DEMO)/teacher.h5 $(STUDENT) --alpha 0 --seed $(SEED) --out $(DEMO)/students/labels
	$(RUN) train_student.py --cache $(DEMO)/teacher.h5 $(STUDENT) --seed $(SEED) --out $(DEMO)/students/distilled
	$(VENV)/bin/kdcache sweep $(DEMO)/teacher.h5 $(STUDENT) --set alpha=0,0.5 --seed $(shell expr $(SEED) + 1) \
	    --seeds $(shell expr $(SEEDS) - 1) --jobs 2 --out $(DEMO)/students
	$(VENV)/bin/kdcache compare $(DEMO)/students --chart $(DEMO)/comparison.png --html $(DEMO)/report.html
	@echo "pictures of each student: curves.png, confusion.png and views.png in $(DEMO)/students/*"

# $(WEIGHTS), anew: 7 minutes of processor time
demo-teacher: install
	$(RUN) train_student.py --dataset shapes-fine --student $(TEACHER) --alpha 0 --image-size 32 --epochs 2 --batch-size 256 \
	    --out runs/demo-teacher --overwrite
	$(RUN) docs/halve_weights.py runs/demo-teacher $(WEIGHTS)

screenshots: demo
	$(RUN) docs/screenshots.py $(DEMO)/report.html

torture: install
	$(RUN) tests/torture/run.py --full

mutants: install
	cd tests && ../$(RUN) -m mutants.faults
	cd tests && ../$(RUN) -m mutants.run --write
