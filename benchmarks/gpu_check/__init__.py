"""Check of the whole package on a GPU, in one command of at most ten minutes.

    python -m benchmarks.gpu_check --device cuda --shape qwen3-vl-2b --output build/gpu-check

The steps (`_steps.py`) run one after another, each in a process of its own, so that an error of
CUDA ends only one step. Each writes its results to `steps/NAME.json` in the output folder as it
measures them. A second call runs only the steps that have not passed. `--device cpu --shape tiny`
runs the same code in about two minutes of processor time without a GPU.
"""
