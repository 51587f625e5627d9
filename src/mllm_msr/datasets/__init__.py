"""Datasets: sources of interactions and items, one file each; users select them by file name."""
