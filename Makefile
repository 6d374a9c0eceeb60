# Everything runs in a separate virtual environment, which is created on first use.
PYTHON ?= python3
# `make demo STACK=newest` and `make test STACK=newest`: with transformers 5, huggingface_hub 2 and Optimum 2.3.
STACK ?= classic
VENV ?= $(if $(filter newest,$(STACK)),.venv-newest,.venv)
EXPLORER ?= .venv-model-explorer
SIGNING ?= .venv-model-signing
LOWEST ?= .venv-lowest
ALONE ?= .venv-alone
WINML ?= .venv-winml
RELEASE ?= .venv-release
# `make release` signs with Sigstore. `make release KEY=key.pem` signs with a private key.
DIST ?= dist
KEY ?=
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := $(VENV)/$(SCRIPTS)
# The texts for codespell: spelling, and the words in docs/habits.txt, also in docstrings, comments and messages.
PROSE := README.md CHANGELOG.md docs/*.md optimum_htp .github benchmarks/*.py benchmarks/reliability
# A file's tests share what they export, so a worker takes whole files.
PARALLEL := --numprocesses auto --dist loadfile
# The processes that tests start would compile each module anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: docs demo test test-unit test-slow test-stack lint test-lowest test-newest bench reliability pictures release clean

demo: $(VENV)/installed
	$(BIN)/python -m tests.support.demo

# Types are checked against the classic stack only: the annotations of Hugging Face's libraries differ.
test: $(if $(filter newest,$(STACK)),$(VENV)/installed,lint)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not $(if $(filter newest,$(STACK)),no_stack,long)"

# Within a minute: files, records, Hubs and resolving, without models.
test-unit: $(VENV)/installed
	$(BIN)/python -m pytest $(PARALLEL) -m unit $(addprefix tests/,fit hubs metadata onnxfile origin resolve stamping)

# Fresh environments, killed processes, files of gigabytes: as long again. .ci/run has them too.
test-slow: $(VENV)/installed $(EXPLORER)/installed $(SIGNING)/installed
	$(BIN)/python -m pytest $(PARALLEL) -m "slow or long"

# The slow tests that depend on the stack, for `make test-stack STACK=newest`.
test-stack: $(VENV)/installed
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and stack"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell --ignore-words-list atention,alse -D docs/habits.txt -D- $(PROSE)

test-lowest: $(LOWEST)/installed
	$(LOWEST)/$(SCRIPTS)/python -m pytest $(PARALLEL)

test-newest: $(ALONE)/installed
	$(ALONE)/$(SCRIPTS)/python -m pytest tests/whole/test_commands_alone.py

# `make bench ARGUMENTS=--quick` has fewer runs and smaller files; done within three minutes, it writes to out/benchmarks.
bench: $(VENV)/installed $(if $(filter newest,$(STACK)),,$(WINML)/installed)
	$(BIN)/python -m benchmarks $(ARGUMENTS)

# Half an hour of kills, full disks, concurrent processes, faulty Hubs, foreign files and fuzzing.
reliability: $(VENV)/installed
	$(BIN)/pip install --quiet atheris
	$(BIN)/python -m benchmarks.reliability $(ARGUMENTS)

# The manual, as pages in out/site.
docs: $(VENV)/installed
	$(BIN)/python -m mkdocs build --strict
	$(BIN)/python -m pytest --quiet tests/whole/test_manual.py

# README's pictures; needs chromium.
pictures: $(VENV)/installed
	$(BIN)/python -m tests.support.pictures .github

# The files of a release, in dist/: sdist and wheel (packages/), bill of materials, signature of all of them.
# The bill of materials lists an environment with the wheel and the tested versions of its dependencies. cyclonedx-py
# needs a pyproject.toml with a fixed version.
release: $(RELEASE)/installed $(SIGNING)/installed
	@test ! -e $(DIST) || { echo "$(DIST) exists, and the signature covers all files in it. Remove it, or pass DIST=FOLDER."; exit 1; }
	rm -rf $(RELEASE)/shipped
	$(RELEASE)/$(SCRIPTS)/python -m build --outdir $(DIST)/packages
	$(RELEASE)/$(SCRIPTS)/twine check --strict $(DIST)/packages/*
	$(PYTHON) -m venv $(RELEASE)/shipped
	$(RELEASE)/shipped/$(SCRIPTS)/pip install --quiet --constraint constraints.txt --find-links $(DIST)/packages optimum-htp
	$(RELEASE)/shipped/$(SCRIPTS)/python -m pip check
	sed 's/^dynamic = .*/version = "'$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' optimum_htp/version.py)'"/' pyproject.toml > $(RELEASE)/pyproject.toml
	$(RELEASE)/$(SCRIPTS)/cyclonedx-py environment --spec-version 1.6 --output-reproducible --short-PURLs \
		--pyproject $(RELEASE)/pyproject.toml --mc-type library -o $(DIST)/optimum-htp.cdx.json $(RELEASE)/shipped/$(SCRIPTS)/python
	$(SIGNING)/$(SCRIPTS)/model_signing sign $(if $(KEY),key --private_key $(KEY),sigstore --use_ambient_credentials) \
		--signature $(DIST)/optimum-htp.sig $(DIST)

ifeq ($(STACK),newest)
# optimum-onnx does not permit transformers 5, so pip is not asked.
$(VENV)/installed: pyproject.toml constraints-newest.txt $(wildcard optimum_htp/_site/*.py)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/python -m tests.support.requirements dev > $(VENV)/requirements.txt
	$(BIN)/pip install --quiet --constraint constraints-newest.txt --requirement $(VENV)/requirements.txt sentence-transformers
	$(BIN)/pip install --quiet --no-deps --constraint constraints-newest.txt optimum optimum-onnx --editable .
	touch $@
else
$(VENV)/installed: pyproject.toml constraints.txt $(wildcard optimum_htp/_site/*.py)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
endif

# Model Explorer needs other versions than we do.
$(EXPLORER)/installed:
	$(PYTHON) -m venv $(EXPLORER)
	$(EXPLORER)/$(SCRIPTS)/pip install --quiet "model-explorer-onnx==0.4.2"
	touch $@

# OpenSSF's model-signing brings Sigstore, and imports pyOpenSSL without asking for it.
$(SIGNING)/installed:
	$(PYTHON) -m venv $(SIGNING)
	$(SIGNING)/$(SCRIPTS)/pip install --quiet "model-signing==1.1.1" pyopenssl
	touch $@

$(RELEASE)/installed:
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/$(SCRIPTS)/pip install --quiet "build>=1.2" "twine>=6" "cyclonedx-bom>=7"
	touch $@

# The other exporter with tags, whose wheel asks for Windows: benchmarks compare with it.
$(WINML)/installed:
	$(PYTHON) -m venv $(WINML)
	$(WINML)/$(SCRIPTS)/pip install --quiet --constraint constraints.txt torch transformers huggingface_hub onnxscript \
		optimum-onnx onnxruntime rich click jsonschema pydantic colorama psutil httpx snakemd "diffusers==0.36.0" "datasets==4.4.1"
	$(WINML)/$(SCRIPTS)/pip install --quiet --no-deps --ignore-requires-python "winml-cli==0.4.0"
	touch $@

# The lowest versions that pyproject.toml permits, but for torch: only the pinned one has a build without CUDA.
$(LOWEST)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/$(SCRIPTS)/pip install --quiet --constraint constraints.txt uv torch
	$(LOWEST)/$(SCRIPTS)/uv pip compile --quiet --resolution lowest-direct --extra test pyproject.toml -o $(LOWEST)/all.txt
	grep -vE "^(torch|nvidia-|cuda-|triton)" $(LOWEST)/all.txt > $(LOWEST)/lowest.txt
	$(LOWEST)/$(SCRIPTS)/pip install --quiet --requirement $(LOWEST)/lowest.txt
	$(LOWEST)/$(SCRIPTS)/pip install --quiet --no-deps --editable .
	touch $@

# The newest transformers and huggingface_hub, which optimum-onnx does not permit, for all that does without that.
$(ALONE)/installed: pyproject.toml
	$(PYTHON) -m venv $(ALONE)
	$(ALONE)/$(SCRIPTS)/pip install --quiet --upgrade pip
	$(ALONE)/$(SCRIPTS)/pip install --quiet --upgrade "torch==2.13.0" "transformers>=5" huggingface_hub onnx onnxruntime \
		pluggy filelock psutil fsspec pytest pytest-timeout
	$(ALONE)/$(SCRIPTS)/pip install --quiet --no-deps optimum --editable .
	touch $@

clean:
	rm -rf .venv .venv-newest $(EXPLORER) $(SIGNING) $(LOWEST) $(ALONE) $(WINML) $(RELEASE) .mypy_cache .ruff_cache .pytest_cache dist out
