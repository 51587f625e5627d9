"""Write tiny checkpoints for inspection."""

import sys
from pathlib import Path

from tiny_checkpoints import ALL_FAMILIES, build

for name in sys.argv[2:] or ALL_FAMILIES:
    build(name, Path(sys.argv[1]) / name)
