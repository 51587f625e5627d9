"""The service: a finished run behind HTTP, with users who move and items that arrive."""
