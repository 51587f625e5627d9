"""A/B test of a service: variants of a list, assigned to users by a hash.

A variant is a ranking model, a budget, or both. The assignment depends only on the name of the
test, the user and the shares, so that a user keeps the variant after a restart and in several
services.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Self, final

from mllm_msr.config.settings import ServeSettings, VariantSettings
from mllm_msr.errors import RunFolderError
from mllm_msr.serving.exposures import ExposureLog
from mllm_msr.serving.list_builder import ListOptions
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.state import NewEvent

logger = logging.getLogger(__name__)

_BITS: Final = 64


def assign(experiment: str, user_id: str, shares: Mapping[str, float]) -> str:
    """Return the variant of a user.

    Args:
        experiment: Name of the test.
        user_id: The user.
        shares: Positive weight of each variant; they need not sum to 1.

    Example:
        >>> assign("budget", "u0001", {"small": 1.0, "large": 1.0})
        'large'
    """
    text = f"{experiment}\0{user_id}".encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.sha256(text).digest()[: _BITS // 8], "big")
    point = number / 2**_BITS * sum(shares.values())
    for name, share in shares.items():
        point -= share
        if point < 0:
            return name
    return name


@final
class AbTest:
    """Running A/B test of a service, for use from its event loop.

    Args:
        name: Name of the test.
        variants: The variants by name.
        log: Log of what was shown.
        metrics: Metrics, which count exposures and outcomes by variant.
        database_lock: Held while the database is written.
    """

    def __init__(
        self,
        name: str,
        variants: Mapping[str, VariantSettings],
        *,
        log: ExposureLog,
        metrics: Metrics,
        database_lock: asyncio.Lock,
    ) -> None:
        self._name = name
        self._variants = variants
        self._shares = {variant: options.share for variant, options in variants.items()}
        self._log = log
        self._metrics = metrics
        self._database_lock = database_lock

    @classmethod
    def from_settings(
        cls,
        settings: ServeSettings,
        *,
        log: ExposureLog,
        metrics: Metrics,
        database_lock: asyncio.Lock,
    ) -> Self | None:
        """Return the test of the settings; None if there is none."""
        if settings.experiment is None:
            return None
        return cls(
            settings.experiment,
            settings.variants,
            log=log,
            metrics=metrics,
            database_lock=database_lock,
        )

    def apply(self, user_id: str, options: ListOptions) -> tuple[str, ListOptions]:
        """Return the variant of a user, and the options of their list."""
        name = assign(self._name, user_id, self._shares)
        variant = self._variants[name]
        budget = options.budget if variant.budget is None else variant.budget
        return name, replace(options, model=variant.model, budget=budget)

    async def record_exposure(self, user_id: str, variant: str, item_ids: Sequence[str]) -> None:
        """Store that a list is shown. The list is returned even if this fails."""
        try:
            async with self._database_lock:
                await asyncio.to_thread(self._log.add, self._name, variant, user_id, item_ids)
        except RunFolderError as error:
            logger.warning("A list of the test %s was not recorded: %s", self._name, error)
        else:
            self._metrics.exposure(self._name, variant)

    async def record_outcomes(self, events: Sequence[NewEvent]) -> None:
        """Count the interactions with items that the test has shown to the user before."""
        pairs = [(one.user_id, one.item_id) for one in events if one.type == "interaction"]
        if not pairs:
            return
        try:
            shown = await asyncio.to_thread(self._log.variants_of, self._name, pairs)
        except RunFolderError as error:  # the events are stored, so the report has them
            logger.warning("Outcomes of the test %s were not counted: %s", self._name, error)
            return
        for variant in filter(None, map(shown.get, pairs)):
            self._metrics.outcome(self._name, variant)
