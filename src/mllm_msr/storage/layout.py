"""Names of the files and folders inside a run folder.

Every module that reads or writes a run folder takes the names from here. All of them are relative
to the run folder, with "/" as separator. Tables are named without ".parquet", as
`storage/run_folder.py` expects them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# Files of the run.
CONFIG: Final = "config.yaml"
MANIFEST: Final = "manifest.json"
DATASET: Final = "dataset.json"
DATA_REPORT: Final = "data_report.json"
METRICS: Final = "metrics.json"
DETAILS: Final = "details.json"
REPORT_HTML: Final = "report.html"
REPORT_MARKDOWN: Final = "report.md"
# Messages and progress of all commands that have worked in the run folder.
LOG: Final = "run.log"

# Lock file of the process that works in the run folder.
LOCK: Final = ".lock"

# Tables of the run; the column schemas are in `tables.py`.
INTERACTIONS: Final = "interactions"
ITEMS: Final = "items"
SPLITS: Final = "splits"
CANDIDATES: Final = "candidates"
SUMMARIES: Final = "summaries"
PREFERENCES: Final = "preferences"
TARGET_PROFILES: Final = "target_profiles"
METRICS_PER_USER: Final = "metrics_per_user"

# Folder with one table per fold: teacher scores of the student.
TEACHER: Final = "teacher"

# Stage that fits the weights of lists, and folder with its files, one per fold.
FIT_LISTS: Final = "fit-lists"
LISTS: Final = "lists"

# Folders with one table per model.
SCORES: Final = "scores"
RANKS: Final = "ranks"
TOP: Final = "top"
CALIBRATION: Final = "calibration"

# Images of the items; the table of items refers to them by relative paths.
IMAGES: Final = "images"

# Projector that was trained on the run's items, and its training states.
ALIGNMENT: Final = "alignment"
PROJECTOR: Final = "alignment/projector.safetensors"

# Results of fine-tuning (a LoRA adapter or full weights) and its checkpoints and log. With more
# than one fold, each fold has them in its own folder below FOLDS.
ADAPTER: Final = "adapter"
MODEL: Final = "model"
WEIGHTS: Final[Mapping[str, str]] = MappingProxyType({"lora": ADAPTER, "full": MODEL})
TRAINING: Final = "training"
# Files of the trackers in `train.loggers`.
TRACKING: Final = "tracking"
FOLDS: Final = "folds"

# Tables that `mllm-msr update` writes, one numbered folder per update.
UPDATES: Final = "updates"

# Runs inside this run that share its first stages, and results of experiments and searches.
VARIANTS: Final = "variants"
EXPERIMENTS: Final = "experiments"
TUNING: Final = "tuning"

# Database and uploaded images of the service.
SERVICE: Final = "service"

# Caches. They can be deleted at any time; their content is then computed again.
RESPONSE_CACHE: Final = "cache/responses.sqlite"
RETRIEVAL_CACHE: Final = "cache/retrieval"
# Downloaded images; the images of items are links to these files.
DOWNLOADS: Final = "cache/downloads"
# Content vectors of baselines; a file's name is the hash of the encoder and the content.
CONTENT_CACHE: Final = "cache/content"
# Training states of baselines, deleted after scoring.
BASELINE_STATES: Final = "cache/baselines"
# Fitted baselines, which ensembles and later commands reuse.
FITTED_BASELINES: Final = "cache/fitted"
