# Each target sets up all it needs: a virtual environment, and this package with what the target uses.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out

.PHONY: demo examples test test-slow lint docs gallery bench bench-gaussian bench-quick bench-optim bench-programs bench-samplers bench-gp bench-flows bench-verdicts bench-scaling bench-million bench-laws wheel wheel-lowest wheel-newest clean

demo: $(VENV)/.examples ## a real posterior from real data, its verdict, pictures under out/
	$(BIN)/python examples/eight_schools.py --out $(OUT)
	$(BIN)/python examples/logistic_regression.py --out $(OUT)

examples: demo ## every example
	$(BIN)/python examples/new_divergence.py --out $(OUT)
	$(BIN)/python examples/tighter_bounds.py --out $(OUT)
	$(BIN)/python examples/bayesian_neural_network.py --out $(OUT)
	$(BIN)/python examples/elevation.py --out $(OUT)
	$(BIN)/python examples/streams.py --out $(OUT)
	$(BIN)/python examples/flow_posterior.py --out $(OUT)
	$(BIN)/python examples/digits_last_layer.py --out $(OUT)
	$(BIN)/python examples/next_point.py --out $(OUT)

test: $(VENV)/.test ## the default tests, about a quarter of an hour on two cores
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/.test ## the long tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: $(VENV)/.test ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(VENV)/.docs ## the documentation, under docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

gallery: examples ## thumbnails of the examples' pictures, for docs/gallery.md
	$(BIN)/python docs/_ext/thumbnails.py $(OUT)

bench: bench-gaussian bench-verdicts bench-scaling bench-million bench-samplers bench-laws bench-flows bench-gp bench-programs bench-optim ## the whole suite: hours

bench-gaussian: $(VENV)/.bench ## the default of vi.fit beside NumPyro; writes docs/generated and README
	$(BIN)/python -m benchmarks.gaussian --seeds 5 --readme README.md

bench-optim: $(VENV)/.bench ## optimizers on nine variational problems; writes docs/generated
	$(BIN)/python -m benchmarks.optimizers

bench-programs: $(VENV)/.bench ## objectives and estimators beside NumPyro's and hand-written ones; writes docs/generated
	$(BIN)/python -m benchmarks.programs

bench-flows: $(VENV)/.bench ## flows, MixFlows and the ladder beside NumPyro's flow guides; writes docs/generated
	$(BIN)/python -m benchmarks.flows
	$(BIN)/python -m benchmarks.flow_step
	$(BIN)/python -m benchmarks.reliability

bench-gp: $(VENV)/.bench ## sparse inverse Cholesky factors, GPBoost beside them; writes docs/generated
	mkdir -p $(OUT)
	$(BIN)/python -m benchmarks.gp_peers gpboost terrain draw labels counts > $(OUT)/gp_peers.json
	for name in terrain draw labels counts inducing full million objective dense dimensions; do \
	  $(BIN)/python -m benchmarks.sic $$name || exit 1; done
	$(BIN)/python -m benchmarks.sic --peers $(OUT)/gp_peers.json
	$(BIN)/python -m benchmarks.svgp
	$(BIN)/python -m benchmarks.which_gp
	$(BIN)/python -m benchmarks.tensor

bench-samplers: $(VENV)/.bench ## NUTS started by VI beside blackjax's and NumPyro's; writes docs/generated
	$(BIN)/python -m benchmarks.samplers

bench-verdicts: $(VENV)/.bench ## how often a verdict is true, against NUTS; writes docs/generated
	$(BIN)/python -m benchmarks.verdicts

bench-scaling: $(VENV)/.bench ## time and memory against rows, dimensions, particles; writes docs/generated
	$(BIN)/python -m benchmarks.scaling

bench-million: $(VENV)/.bench ## a million rows, a thousand coefficients; 4 GB of disk; writes docs/generated
	$(BIN)/python -m benchmarks.million

bench-laws: $(VENV)/.bench ## a mixture, a small network, conformal radii, a filter that learns; writes docs/generated
	$(BIN)/python -m benchmarks.laws

bench-quick: $(VENV)/.bench ## bench-gaussian with one seed, under out/
	$(BIN)/python -m benchmarks.gaussian --seeds 1 --out $(OUT)

wheel: | $(BIN)/python ## the wheel, under dist
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

wheel-lowest wheel-newest: wheel-%: wheel ## the wheel by itself, with the lowest or newest dependencies
	$(PYTHON) -m venv --clear build/$*
	sed -n 's/^  "\([a-z]*\)>=\([0-9.]*\)",$$/\1==\2/p' pyproject.toml > build/lowest.txt
	build/$*/bin/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(filter lowest,$*),--constraint build/lowest.txt) dist/*.whl
	build/$*/bin/python tests/smoke.py
	build/$*/bin/python -m vi check

clean: ## everything that was made, the virtual environment excepted
	rm -rf $(OUT) build dist docs/_build docs/jupyter_execute docs/reference/api .pytest_cache .ruff_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each extra; made anew when the dependencies change.
$(VENV)/.examples $(VENV)/.test $(VENV)/.docs $(VENV)/.bench: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	touch $@
