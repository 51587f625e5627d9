"""Data sets: one file per source of interactions and items; users select it by the file's name."""
