"""What is claimed about speed and memory, each claim a module with a function `run`.

`python -m benchmarks NAME --json` runs one. The arguments of its `run` are options.
"""
