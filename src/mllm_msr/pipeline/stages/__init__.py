"""The stages of the pipeline, one module each: tables and settings in, tables out.

No stage reads or writes the run folder; `pipeline/stage_io.py` does that for all of them.
"""
