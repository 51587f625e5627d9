"""Lightning's messages are hidden within the block and restored afterwards."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings

import pytest

from mllm_msr.ranker.training.lightning_output import quiet_lightning

LOGGER = logging.getLogger("lightning.pytorch")


def warn_as(module: str) -> None:
    warnings.warn_explicit("few workers", UserWarning, "file.py", 1, module=module)


def test_messages_of_lightning_are_hidden_and_others_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO), quiet_lightning():
        LOGGER.info("GPU available: False")
        LOGGER.warning("something is wrong")
        with warnings.catch_warnings(record=True) as caught:
            warn_as("lightning.pytorch.trainer")
            warn_as("elsewhere")
    assert caplog.messages == ["something is wrong"]
    assert len(caught) == 1


def fail() -> None:
    assert LOGGER.level == logging.WARNING
    raise RuntimeError("training broke")


def test_log_level_is_restored_after_an_error() -> None:
    before = LOGGER.level
    with pytest.raises(RuntimeError, match="training broke"), quiet_lightning():
        fail()
    assert LOGGER.level == before


def test_messages_are_hidden_even_if_lightning_is_imported_later() -> None:
    """Lightning sets the level of its logger when it is imported."""
    script = (
        "import logging\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from mllm_msr.ranker.training.lightning_output import quiet_lightning\n"
        "with quiet_lightning():\n"
        "    import lightning\n"
        "    logging.getLogger('lightning.pytorch.trainer').info('Received SIGTERM')\n"
        "    logging.getLogger('lightning.fabric').info('distributed_backend=gloo')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
