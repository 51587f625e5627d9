"""The stages of the pipeline, one module each, as functions from tables and settings to tables.

Stages do not read or write the run folder; `pipeline/stage_io.py` does that for them.
"""
