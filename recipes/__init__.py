"""Recipes that build files of the package, such as the demo model; not part of the wheel."""
