# make demo: the whole job on the embedded dataset.  make test: all tests.
# make lint: what ruff says of the code and its format.  make typecheck: what basedpyright says.
# make test-lowest: all tests on Python 3.11 with the lowest versions that pyproject.toml declares.
# make screenshots: docs/pictures/page.png anew, from the demo's page, with Chromium.
# make lock: the files in requirements/, anew.  Each but the last two makes .venv first.

PYTHON ?= python3
PYTHON311 ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
LOWEST := .venv-lowest
INSTALL := -m pip install --quiet --disable-pip-version-check
THIS := --no-deps --no-build-isolation --editable .

# The teacher sees 200,000 images with labels once; the students have 1,200, of which they know
# one of ten classes.
DEMO := runs/demo
SMALL := shufflenet_v2_x0_5
STUDENT := --cache $(DEMO)/teacher.h5 --student $(SMALL) --student-weights none --epochs 40 --batch-size 64 --lr 0.02 \
           --overwrite

.PHONY: install lint typecheck test test-lowest lock demo screenshots torture

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
EXTRAS := pyproject.toml --extra test --extra report --extra onnx --extra safetensors --extra tensorboard
# the lowest versions afresh: uv would keep those that the file names
lock:
	rm -f requirements/lowest.txt
	$(LOCK) --universal $(EXTRAS) --output-file requirements/locked.txt
	$(LOCK) --universal requirements/dev.in --output-file requirements/dev.txt
	$(LOCK) --resolution lowest-direct --constraint requirements/lowest-limits.txt $(EXTRAS) \
	    --output-file requirements/lowest.txt

demo: install
	$(RUN) train_student.py --dataset shapes-fine --student $(SMALL) --student-weights none --alpha 0 --augment none \
	    --image-size 32 --epochs 1 --batch-size 256 --lr 0.5 --out $(DEMO)/teacher --overwrite
	$(RUN) precompute_teacher.py --dataset shapes --teacher $(SMALL) --teacher-weights $(DEMO)/teacher/student.pt \
	    --augment crop-flip --views 16 --cache $(DEMO)/teacher.h5 --restart
	$(RUN) train_student.py $(STUDENT) --out $(DEMO)/labels --alpha 0
	$(RUN) train_student.py $(STUDENT) --out $(DEMO)/distilled
	$(VENV)/bin/kdcache compare $(DEMO)/labels $(DEMO)/distilled --chart $(DEMO)/comparison.png --html $(DEMO)/report.html
	@echo "page: $(DEMO)/report.html; pictures: $(DEMO)/comparison.png and curves.png, confusion.png, views.png in $(DEMO)/labels and $(DEMO)/distilled"

screenshots: demo
	$(RUN) docs/screenshots.py $(DEMO)/report.html

torture: install
	$(RUN) tests/torture/run.py --full
