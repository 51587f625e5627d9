"""Where prompts are answered, if not in this process: one file per executor."""
