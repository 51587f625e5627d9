"""The run folder on disk: atomic writes, manifest, caches and transfer to object storage."""
