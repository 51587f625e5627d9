"""Benchmarks of speed, memory and quality; each is a module with a function `run`.

`python -m benchmarks NAME --json` runs one of them; the parameters of its `run` are its options.
"""
