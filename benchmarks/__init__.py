"""Benchmarks of speed, memory and quality, one module with a function `run` each.

`python -m benchmarks NAME --json` runs one of them; the arguments of its `run` are its options.
"""
