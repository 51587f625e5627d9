"""Scripts that produce artifacts of the package; not part of the wheel."""
