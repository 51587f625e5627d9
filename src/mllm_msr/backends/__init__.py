"""Models that answer prompts: one file each, the file's name is the name users type."""
