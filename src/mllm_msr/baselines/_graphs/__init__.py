"""Parts of the baselines that pass messages along the edges of a graph: MMGCN, MGAT, MMSR."""
