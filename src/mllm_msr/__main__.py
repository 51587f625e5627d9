"""Entry point of `python -m mllm_msr`; same as the command `mllm-msr`."""

from __future__ import annotations

from mllm_msr.cli import main

if __name__ == "__main__":
    main()
