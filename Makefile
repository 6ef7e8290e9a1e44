# A new machine needs Python 3.11 or newer and make; the targets see to the rest.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 5000
PYTEST_ARGS ?=

export PYTHON HOST PORT
BIN := .venv/bin/python

.PHONY: help demo test check bench

help: ## what there is
	@echo "make demo    serve the example at http://$(HOST):$(PORT) (PORT=5001 and HOST=0.0.0.0 change that)"
	@echo "make test    run the tests, with coverage; PYTEST_ARGS=tests/unit runs these, without"
	@echo "make check   look at style, types and the order of the modules"
	@echo "make bench   measure, against others in the same run"
	@echo
	@echo "PYTHON=python3.12 chooses another Python than python3."

demo: ## set everything up and serve the example
	@scripts/venv migrate
	@scripts/demo

test: ## set everything up and run the tests
	@scripts/venv test
	@scripts/s3-server
	@scripts/system-packages
	@PYTHONHASHSEED=0 RINDLE_REQUIRE_ALL="$${RINDLE_REQUIRE_ALL:-$${CI:+1}}" $(BIN) -m pytest $(or $(PYTEST_ARGS),--numprocesses auto --dist loadfile --cov)

check: ## lint, types, floors
	@scripts/venv test,check
	@scripts/check

bench: ## measure, against others in the same run; PostgreSQL, MariaDB, Redis and RabbitMQ have to run
	@scripts/venv test,bench
	@$(BIN) benchmarks/variants.py
	@$(BIN) benchmarks/jobs.py
	@scripts/s3-server
	@$(BIN) benchmarks/uploads.py
