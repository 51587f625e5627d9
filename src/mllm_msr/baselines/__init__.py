"""Baselines of the paper's recommender, one file each; the file's name is the name users type."""
