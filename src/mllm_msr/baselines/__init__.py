"""Baselines that MLLM-MSR is compared with: one file each, named like the baseline."""
