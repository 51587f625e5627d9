"""Parameters of chat requests, adapted to what an endpoint accepts.

Models differ in the parameters that they accept: some require `max_completion_tokens` instead of
`max_tokens`, a minimum for it, or their own temperature. An endpoint says so when it rejects a
request. The request is then changed and sent again, and so are all later ones, including probes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Final

from mllm_msr.backends._http.responses import RequestRejectedError

logger = logging.getLogger(__name__)

_LENGTH: Final = "max_tokens"
_OTHER_LENGTH: Final = "max_completion_tokens"
# "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 1."
_LENGTH_FIELD: Final = re.compile(r"max_?(completion|output|new)?_?tokens", re.IGNORECASE)
_MINIMUM: Final = re.compile(
    r"(?:>=|at least|minimum (?:value )?(?:of|is)|greater than or equal to)\D{0,20}(\d{1,4})\b",
    re.IGNORECASE,
)


class RequestParameters:
    """Parameters of all requests to one endpoint.

    Args:
        extra: Additional fields of every request; None removes a field.
    """

    def __init__(self, extra: Mapping[str, object]) -> None:
        self._extra = dict(extra)
        self._length_field = _LENGTH
        self._min_tokens = 1
        self._dropped: set[str] = set()

    def apply(self, fields: Mapping[str, object]) -> dict[str, object]:
        """Return the fields of a request as the endpoint accepts them, with the additional ones."""
        applied = {name: value for name, value in fields.items() if name not in self._dropped}
        if isinstance(length := applied.pop(_LENGTH, None), int):
            applied[self._length_field] = max(length, self._min_tokens)
        return {
            name: value for name, value in {**applied, **self._extra}.items() if value is not None
        }

    def adapt(self, sent: Mapping[str, object], error: RequestRejectedError) -> bool:
        """Adapt to a rejection.

        Args:
            sent: Fields of the rejected request.
            error: The rejection.

        Returns:
            Whether a request with the same fields now differs, so that it can be sent again.
        """
        if error.status not in (400, 422):
            return False
        reason = str(error)
        if _OTHER_LENGTH in reason and _LENGTH in sent and _LENGTH not in self._extra:
            self._length_field = _OTHER_LENGTH
            return True
        minimum = _MINIMUM.search(reason)
        length = sent.get(self._length_field)
        if minimum and _LENGTH_FIELD.search(reason) and isinstance(length, int):
            if length >= int(minimum[1]) or self._length_field in self._extra:
                return False
            self._min_tokens = max(self._min_tokens, int(minimum[1]))
            return True
        if "temperature" in reason and "temperature" in sent and "temperature" not in self._extra:
            if "temperature" not in self._dropped:
                logger.warning(
                    "the endpoint rejects temperature 0, so its answers may differ between "
                    "requests: %s",
                    reason,
                )
            self._dropped.add("temperature")
            return True
        return False
