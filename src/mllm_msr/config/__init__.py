"""Settings: declaration, validation, and loading from presets, files and the command line."""
