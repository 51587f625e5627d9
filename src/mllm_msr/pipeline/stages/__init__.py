"""Each stage's hands: read tables from the run folder, call the library, write what it yields."""
