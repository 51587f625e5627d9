"""Shared parts of the baselines with message passing on graphs: MMGCN, MGAT, MMSR."""
