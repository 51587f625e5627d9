"""Sources of interactions and items: one file each, the file's name is the name users type."""
