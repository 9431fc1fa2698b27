# make demo   an environment, real data, training, evaluation, prediction: about two minutes
# make test   all tests, in the same environment
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: venv test demo tables figures docs dist check-dist check-lowest check-docs clean-demo

venv: $(VENV)/installed

$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dev]'
	-$(BIN)/python -m igcnet.native.build
	@touch $@

test: venv
	$(BIN)/python -m ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

# dist/: the wheel and the source distribution.
dist: venv
	$(BIN)/python -m build

# Both of them installed into empty environments and used there; the tests of the installed wheel.
check-dist:
	PYTHON=$(PYTHON) .ci/check-dist

# The same with the lowest version of everything, and the tests that use other packages most.
LOWEST = recipes runlog images transforms presets svhn progress registry onnx_form cli_resume
check-lowest:
	PYTHON=$(PYTHON) CONSTRAINTS=.ci/lowest.txt .ci/check-dist $(LOWEST:%=tests/test_%.py)

# Every command of README.md and docs/, on small stand-ins for the data.
check-docs: venv
	$(BIN)/python -W ignore docs/commands/run.py

# The handwritten digits that come with scikit-learn, as 32x32 images.
demo: venv clean-demo
	$(BIN)/python tools/im2rec_pack.py $(DEMO)/digits --dataset digits
	$(BIN)/python tools/train.py --network resnet_igc --depth 8 --primary-partition 8 \
	    --secondary-partition 2 --dataset digits --data-dir $(DEMO)/digits --recipe modern \
	    --num-epochs 12 --batch-size 32 --rand-seed 1 --lowering blocked \
	    --log-dir $(DEMO)/runs --exp-name demo
	$(BIN)/python tools/evaluate.py --params $(DEMO)/runs/digits_noaug/resnet_igc/resnet_igc_d8L8M2_demo1 \
	    --data $(DEMO)/digits/test.rec --confusion $(DEMO)/confusion
	$(BIN)/python tools/im2rec_pack.py extract $(DEMO)/digits/test.rec $(DEMO)/samples --first 10
	$(BIN)/python tools/predict.py --params $(DEMO)/runs/digits_noaug/resnet_igc/resnet_igc_d8L8M2_demo1 \
	    $(DEMO)/samples/*/*
	@echo 'curves: $(DEMO)/runs/digits_noaug/resnet_igc/resnet_igc_d8L8M2_demo1/curves.png'

clean-demo:
	rm -rf $(DEMO)

# The generated table of networks in README.md.
tables: venv
	$(BIN)/python tools/readme_tables.py

# The pictures of the documentation.
figures: venv
	$(BIN)/python docs/figures/igc_unit.py
	$(BIN)/python docs/figures/augmentations.py

# The API pages, docs/api/index.html.
docs: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'pdoc>=14'
	$(BIN)/python -W ignore docs/make_api.py
