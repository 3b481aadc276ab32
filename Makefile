# One word per habit. `make toy` needs requirements.txt installed and nothing else.
PYTHON ?= python
DATA ?= data
TYPED := torch_optimizer curvature landscape_utils.py training tasks/base.py runs convergence hessian

.PHONY: toy test slow lint types known bench gpu mutants study
toy:    ## the three scripts on the toy task, about two minutes
	$(PYTHON) run_landscape.py
	$(PYTHON) run_convergence.py
	$(PYTHON) run_hessian.py

test:   ## the ordinary tests, one file per process at a time
	$(PYTHON) -m pytest --numprocesses auto --dist loadfile

slow:   ## the long tests, one after the other
	$(PYTHON) -m pytest -m slow

lint:   ## what CI asks of the text
	ruff check .
	ruff format --check .

types:  ## the type checker, on the core, the loop, the storage and two wings
	basedpyright --level error $(TYPED)

known:  ## numbers known from elsewhere beside what is measured here, seconds
	$(PYTHON) check_known_cases.py

bench:  ## the quick benchmarks; each writes its table to benchmarks/results/
	$(PYTHON) -m benchmarks.sharpness --threads 1
	$(PYTHON) -m benchmarks.clipping
	$(PYTHON) -m benchmarks.scan --size small

gpu:    ## everything that is measured on a machine with a GPU, 25 minutes; without one, at a tiny size
	$(PYTHON) -m benchmarks.gpu

mutants:  ## changes the code in hundreds of small ways, one at a time: do the tests notice? About an hour
	$(PYTHON) -m tests.mutants

study:  ## the runs of docs/results.md on DATA=FOLDER, hours; SMALL=1: on generated data, minutes
	$(PYTHON) -m study $(if $(SMALL),--small --output_dir output/small_study,--data $(DATA))
