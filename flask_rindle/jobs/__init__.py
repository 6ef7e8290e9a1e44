"""Runners of jobs: who calls the pipeline, and when."""
