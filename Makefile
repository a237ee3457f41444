# make demo: the whole job on the embedded dataset.  make test: all tests.
# make lint: what ruff says of the code and its format.  make typecheck: what basedpyright says.
# Each of them makes .venv first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# The teacher sees 200,000 images with labels once; the students have 1,200, of which they know
# one of ten classes.
DEMO := runs/demo
SMALL := shufflenet_v2_x0_5
STUDENT := --cache $(DEMO)/teacher.h5 --student $(SMALL) --student-weights none --epochs 40 --batch-size 64 --lr 0.02 \
           --temperature 2 --alpha 0.5 --overwrite

.PHONY: install lint typecheck test demo torture

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test,dev]"
	touch $@

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

typecheck: install
	$(RUN) -m basedpyright

test: install
	$(RUN) -m pytest

demo: install
	$(RUN) train_student.py --dataset shapes-fine --student $(SMALL) --student-weights none --alpha 0 --augment none \
	    --image-size 32 --epochs 1 --batch-size 256 --lr 0.5 --out $(DEMO)/teacher --overwrite
	$(RUN) precompute_teacher.py --dataset shapes --teacher $(SMALL) --teacher-weights $(DEMO)/teacher/student.pt \
	    --augment crop-flip --views 16 --cache $(DEMO)/teacher.h5 --restart
	$(RUN) train_student.py $(STUDENT) --out $(DEMO)/labels --alpha 0
	$(RUN) train_student.py $(STUDENT) --out $(DEMO)/distilled
	$(RUN) -m kdcache compare $(DEMO)/labels $(DEMO)/distilled --chart $(DEMO)/comparison.png --html $(DEMO)/report.html
	@echo "page: $(DEMO)/report.html; pictures: $(DEMO)/comparison.png and curves.png, confusion.png, views.png in $(DEMO)/labels and $(DEMO)/distilled"

torture: install
	$(RUN) tests/torture/run.py --full
