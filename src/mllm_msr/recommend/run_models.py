"""Opening of the models of a finished run: the ranker, and the model that generates preferences.

`recommend/recommender.py` opens one of each; the service may open several copies of the ranker and
puts a queue in front of each model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import final

from mllm_msr.config.settings import Settings
from mllm_msr.errors import RunFolderError
from mllm_msr.interfaces import Backend
from mllm_msr.pipeline.backends import backend_class, open_backend
from mllm_msr.ranker.calibration import IDENTITY, read_calibration
from mllm_msr.ranker.collaborative import require_vectors
from mllm_msr.ranker.prompt_record import require_prompt, require_prompt_of


@final
class RunModels:
    """Factory of the backends of a run.

    Args:
        settings: The run's settings.
        weights: Verifies the fine-tuned weights and returns their folder; not called if
            `train.enabled` is false.
        base_fingerprint: Fingerprint of the base model of fine-tuning, if known.

    Attributes:
        calibration: Calibration of the ranker's P(yes); known once the ranker was opened.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        weights: Callable[[], Path],
        base_fingerprint: str | None = None,
    ) -> None:
        self._settings = settings
        # The model that scores the run's candidates, as in the stage "score".
        self._ranker = settings.score.model or settings.model
        self._weights = weights
        self._base_fingerprint = base_fingerprint
        self.calibration = IDENTITY

    @property
    def fine_tuned(self) -> bool:
        """Return whether the ranker is fine-tuned."""
        return self._settings.train.enabled

    @property
    def has_zero_shot(self) -> bool:
        """Return whether the preference model is the ranker without fine-tuning.

        The service then offers it for comparison, because it is already in memory.
        """
        own = self._settings.infer.model or self._settings.score.model
        return self.fine_tuned and own is None

    @property
    def default_copies(self) -> int:
        """Return the default number of copies of the ranker for a service on this machine."""
        return backend_class(self._ranker).default_copies(**self._ranker.plugin_kwargs())

    @property
    def caches_images(self) -> bool:
        """Return whether the ranker caches what it computes for item images.

        These are attention states, or the features of images in prompts that begin with the user,
        which have no states that users could share.
        """
        caches_states = self._settings.retrieve.prefix_cache_bytes > 0
        return backend_class(self._ranker).caches_image_prefixes and (
            caches_states or self._settings.recommend.order != "item-first"
        )

    def open_ranker(self, *, threads: int | None = None) -> Backend:
        """Open the model that scores, with the fine-tuned weights; the caller closes it.

        Args:
            threads: Threads of a model in this process, unless the run's settings set them.

        Raises:
            RunFolderError: The weights were fine-tuned from another model than that in the
                settings, or have not been trained.
            DamagedFileError: The weights are not what the training has written.
            SettingsError: The weights were fine-tuned with other prompts.
            CapabilityError: The backend cannot read the vectors of the prompts.
        """
        model, prompt = self._ranker, self._settings.recommend
        require_prompt_of(model.backend, model.plugin_kwargs(), prompt)
        require_vectors(model.backend, prompt)
        optional: dict[str, int] = {}
        if prompt.order == "item-first":
            optional["prefix_cache_bytes"] = self._settings.retrieve.prefix_cache_bytes
        if threads is not None:
            optional["threads"] = threads
        if not self.fine_tuned:
            if adapter := model.plugin_kwargs().get("adapter"):
                self.calibration = read_calibration(Path(adapter))
            return open_backend(model, optional=optional)
        if model is self._settings.model:
            with contextlib.closing(open_backend(model)) as base:
                self._require_base(base.fingerprint)
        weights = self._weights()
        require_prompt(weights, prompt)
        self.calibration = read_calibration(weights)
        return open_backend(model, weights, self._settings.train.weight_format, optional=optional)

    def _require_base(self, fingerprint: str) -> None:
        if self._base_fingerprint not in (None, fingerprint):
            raise RunFolderError(
                f"The run was fine-tuned from {self._base_fingerprint}, but its settings now "
                f"select {fingerprint}. Restore the old model, or rerun with --force."
            )

    def open_preference_model(self) -> Backend:
        """Open the backend that generates preferences and summaries; the caller closes it."""
        return open_backend(self._settings.infer.model or self._settings.model)
