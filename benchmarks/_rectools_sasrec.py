"""Train and evaluate RecTools' SASRec in a separate environment.

RecTools requires an older numpy than this project, so this module imports nothing from the
project. Arguments: a folder with `interactions.csv` (user_id, item_id, timestamp) and `targets.csv`
(user_id, item_id), and the settings as JSON. The last line of the output is the result as JSON.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns  # type: ignore[import-not-found]
from rectools.dataset import Dataset  # type: ignore[import-not-found]
from rectools.models import SASRecModel  # type: ignore[import-not-found]

_IDS = {"user_id": str, "item_id": str}


def main(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Fit the model on the interactions, and evaluate its recommendations against the targets."""
    rows = pd.read_csv(folder / "interactions.csv", dtype=_IDS)
    rows = rows.rename(columns={"timestamp": Columns.Datetime})
    rows[Columns.Datetime] = pd.to_datetime(rows[Columns.Datetime], unit="s")
    dataset = Dataset.construct(rows.assign(**{Columns.Weight: 1.0}))
    epochs = settings["epochs"]
    seed_everything(settings["seed"])
    model = SASRecModel(
        n_factors=settings["hidden"],
        n_blocks=settings["n_blocks"],
        n_heads=settings["n_heads"],
        dropout_rate=settings["dropout"],
        session_max_len=settings["max_length"],
        batch_size=settings["batch_size"],
        lr=settings["learning_rate"],
        loss="softmax",
        get_trainer_func=lambda: Trainer(
            max_epochs=epochs,
            min_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ),
    )
    start, processor = time.perf_counter(), time.process_time()
    model.fit(dataset)
    seconds = {
        "elapsed_per_epoch": round((time.perf_counter() - start) / epochs, 2),
        "processor_per_epoch": round((time.process_time() - processor) / epochs, 2),
    }
    targets = pd.read_csv(folder / "targets.csv", dtype=_IDS)
    known = targets[targets.item_id.isin(rows.item_id) & targets.user_id.isin(rows.user_id)]
    lists = model.recommend(known.user_id.to_numpy(), dataset, k=10, filter_viewed=True)
    hits = lists.merge(known, on=["user_id", "item_id"])
    gains = sum(1 / math.log2(1 + rank) for rank in hits["rank"])
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return {
        **seconds,
        "peak_gb": round(int(peak.split()[1]) * 1024 / 1e9, 2),
        "hr@10": round(len(hits) / len(targets), 4),
        "ndcg@10": round(gains / len(targets), 4),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), json.loads(sys.argv[2]))))
