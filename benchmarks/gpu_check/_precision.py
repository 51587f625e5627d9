"""Steps with other data types: float16, and weights in 4 bits."""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.gpu_check._equality import largest_difference, score
from benchmarks.gpu_check._step import Check, Record, StepSkippedError, require
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.pipeline.model_trial import try_model
from mllm_msr.ranker.training.checkpoint import LOG_FILE
from mllm_msr.ranker.training.trainer import train
from mllm_msr.storage import layout
from mllm_msr.types import Precision

# Float16 has three more bits of precision than bfloat16, so it may differ from float32 as much.
_SMALLEST_TOLERANCE = 0.02
_STEPS = 4
_BATCH_SIZE = 8


def check_float16(check: Check, record: Record) -> None:
    """Load the random model in float16, try all uses, and train."""
    reference = check.results_of("equality")
    prompts = [one.prompt for one in check.workload().candidate_lists(1)]
    backend = _backend(check, "float16")
    with closing(backend):
        scores = score(backend, prompts)
        _try_all_uses(backend, record)
    found = largest_difference(scores, reference["reference"][: len(scores)])
    allowed = max(reference["largest_difference"]["cpu bfloat16"], _SMALLEST_TOLERANCE)
    record.add(largest_difference=found, allowed=allowed)
    require(found <= allowed, f"Log-probabilities differ by {found:.2g}, more than {allowed:.2g}.")
    check.free_gpu()
    if check.device == "cpu":
        record.add(training="not tried: train.precision=fp16 needs a GPU")
        return
    record.add(losses=train_adapter(check, Path(), precision="fp16"))


def check_4bit(check: Check, record: Record) -> None:
    """Load the random model in 4 bits, try all uses, and use it with an adapter.

    Raises:
        StepSkippedError: bitsandbytes is not installed.
    """
    for package in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise StepSkippedError(
                f"{package} is not installed. Run: pip install 'mllm-msr[quantize]'"
            )
    reference = check.results_of("equality")["reference"]
    prompts = [one.prompt for one in check.workload().candidate_lists(1)]
    backend = _backend(check, "4bit")
    with closing(backend):
        scores = score(backend, prompts)
        _try_all_uses(backend, record)
    found = largest_difference(scores, reference[: len(scores)])
    record.add(largest_difference=found)
    check.free_gpu()
    with tempfile.TemporaryDirectory() as folder:
        record.add(losses=train_adapter(check, Path(folder), precision=check.precision))
        adapted = _backend(check, "4bit", adapter=Path(folder) / layout.ADAPTER)
        with closing(adapted):
            changed = largest_difference(score(adapted, prompts), scores)
    record.add(change_by_adapter=changed)
    require(changed > 0, "The adapter does not change the scores of the model in 4 bits.")


def train_adapter(
    check: Check, folder: Path, *, precision: str, batch_size: int = _BATCH_SIZE
) -> list[float]:
    """Train an adapter of the random model for some steps and return the losses.

    Args:
        check: Options of the check.
        folder: Folder for the adapter; the current folder uses a temporary one.
        precision: `train.precision`.
        batch_size: Examples per step.

    Raises:
        CheckFailedError: A loss is not finite.
    """
    settings = TrainSettings.model_validate(
        {
            "rank": 4,
            "learning_rate": 2e-4,
            "batch_size": batch_size,
            "epochs": 1,
            "precision": precision,
        }
    )
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) if folder == Path() else folder
        examples = check.workload().training_pairs(_STEPS * batch_size)
        train(examples, [], checkpoint=str(check.checkpoint()), output=output, settings=settings)
        log = (output / layout.TRAINING / LOG_FILE).read_text(encoding="utf-8")
    rows = map(json.loads, log.splitlines())
    losses = [row["loss"] for row in rows if "loss" in row]
    require(len(losses) == _STEPS and all(map(math.isfinite, losses)), f"The losses are {losses}.")
    return losses


def _backend(check: Check, dtype: Precision, **options: Any) -> HuggingFaceBackend:
    return HuggingFaceBackend(
        str(check.checkpoint()),
        dtype=dtype,
        device=check.device,
        speculative_tokens=0,
        **options,
    )


def _try_all_uses(backend: HuggingFaceBackend, record: Record) -> None:
    """Run the trial of `mllm-msr doctor`: an image, an answer, a batch and a training step."""
    findings = list(try_model("model", backend))
    record.add(trial={one.name: f"{one.state}: {one.detail}" for one in findings})
    broken = [f"{one.name}: {one.detail}" for one in findings if one.state == "broken"]
    require(not broken, "; ".join(broken))
