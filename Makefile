PYTHON ?= python3
# The demo's environment holds what a user gets (no torch); tests and training have their own.
USER_ENV = .venv
DEV_ENV = .venv-dev

.PHONY: help demo test check bench bench-train bench-engine bench-sync gpu-check results soak clean
.DEFAULT_GOAL := help

help: ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: $(USER_ENV)/.installed ## Install the daemon into .venv and score the demo clip.
	$(USER_ENV)/bin/python -m avff.engine.faces.assets
	$(USER_ENV)/bin/avffd --source demo

test: $(DEV_ENV)/.installed ## Install what tests need into .venv-dev and run them.
	@sh tools/need.sh espeak-ng gcc pulseaudio pulseaudio-utils libportaudio2 libasound2-plugins ffmpeg openssl xvfb \
		x11-xserver-utils python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good
	$(DEV_ENV)/bin/python -m avff.engine.faces.assets
	$(DEV_ENV)/bin/python -m pytest -n 2 --dist loadfile --cov --cov-report=term

check: $(DEV_ENV)/.installed ## Style, types and import rules.
	$(DEV_ENV)/bin/ruff check .
	$(DEV_ENV)/bin/ruff format --check .
	$(DEV_ENV)/bin/mypy
	$(DEV_ENV)/bin/lint-imports

bench: $(DEV_ENV)/.installed ## Measure speed and memory on this machine.
	$(DEV_ENV)/bin/python -m avff.engine.faces.assets
	$(DEV_ENV)/bin/python tools/bench.py --json bench-results/bench.json

bench-sync: $(DEV_ENV)/.installed ## Measure how well a camera and its microphone are in step.
	@sh tools/need.sh gcc pulseaudio pulseaudio-utils libportaudio2 libasound2-plugins
	$(DEV_ENV)/bin/python -m tools.bench_sync --json bench-results/sync.json

bench-train: $(DEV_ENV)/.installed ## Measure the trainer's data loading, and what GPU memory its steps take.
	$(DEV_ENV)/bin/python -m avff.engine.faces.assets
	$(DEV_ENV)/bin/python tools/bench.py train --json bench-results/bench-train.json

bench-engine: $(DEV_ENV)/.installed ## Measure the network in every runtime, against others and the machine's limits.
	$(DEV_ENV)/bin/python -m avff.engine.faces.assets
	$(DEV_ENV)/bin/python tools/bench.py engine --json bench-results/bench-engine.json

gpu-check: $(DEV_ENV)/.installed ## Build, compare, test and time on this machine's NVIDIA GPU; 3: rows are open, 77: all.
	$(DEV_ENV)/bin/python -m avff.engine.faces.assets
	$(DEV_ENV)/bin/python -m tools.gpu_check

results: $(DEV_ENV)/.installed ## Judge the embedded model on the clips of AVFF_DATA; remake docs/results and what quotes it.
	$(DEV_ENV)/bin/python -m avff.engine.faces.assets
	$(DEV_ENV)/bin/python -m tools.results

soak: $(DEV_ENV)/.installed ## Kill training at random moments; resumed, it must end with the same weights.
	$(DEV_ENV)/bin/python tools/soak_train.py

clean: ## Remove both environments and caches; keep runs/.
	rm -rf $(USER_ENV) $(DEV_ENV) build *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache

SOURCES := $(shell find configs daemon engine src trainer -type f -not -name '*.pyc' 2>/dev/null)

# opencv-python links against libGL and GLib, which minimal systems lack.
$(USER_ENV)/.installed: setup.cfg pyproject.toml $(SOURCES)
	@sh tools/need.sh libgl1 libglib2.0-0
	test -d $(USER_ENV) || $(PYTHON) -m venv $(USER_ENV)
	$(USER_ENV)/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps .
	$(USER_ENV)/bin/python -m pip install --quiet --disable-pip-version-check .
	@touch $@

$(DEV_ENV)/.installed: setup.cfg pyproject.toml
	@sh tools/need.sh libgl1 libglib2.0-0
	$(PYTHON) -m venv $(DEV_ENV)
	$(DEV_ENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[train,dev,rtx]'
	@touch $@
