"""Recipes that produce files of the package; not part of the wheel."""
