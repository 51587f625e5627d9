"""Every error that a user can meet, in one tree.

    MllmMsrError                  exit code 1
    ├── UsageError                exit code 2: the command or its settings are wrong
    │   ├── SettingsError         one or more settings, all reported at once
    │   ├── UnknownNameError      a data set, backend, ... that does not exist
    │   └── MissingExtraError     an optional dependency that is not installed
    ├── DataError                 a file, a column or a value that cannot be used
    │   └── ImageError            an image that cannot be opened safely
    ├── RunFolderError            the run folder itself
    │   ├── RunLockedError        another process holds it
    │   ├── StaleStageError       finished work that was made under other settings
    │   └── DamagedFileError      a file whose content is not what was written
    ├── BackendError              the model or the endpoint
    │   ├── CapabilityError       it cannot do what was asked of it
    │   ├── AnswerTokenError      yes / no are not one token each
    │   └── PromptTooLongError    a prompt that does not fit, even trimmed
    └── TrainingError             fine-tuning cannot go on
        └── NonFiniteLossError    the loss is NaN or infinite

A message is one sentence in three parts: what was needed, what came, what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class MllmMsrError(Exception):
    """Base of all errors of this package.

    Args:
        needed: What was required, as a noun phrase ("a column 'user_id'").
        received: What came instead, with its value.
        remedy: What the reader can do, as an imperative.
    """

    exit_code = 1

    def __init__(self, *, needed: str, received: str, remedy: str) -> None:
        self.needed = needed
        self.received = received
        self.remedy = remedy
        super().__init__(needed, received, remedy)

    def __str__(self) -> str:
        return f"needed {self.needed}, received {self.received}: {self.remedy}."


class UsageError(MllmMsrError):
    """The command line or its settings are wrong."""

    exit_code = 2


class SettingsError(UsageError):
    """Settings that cannot be used; carries every problem found.

    Args:
        problems: One sentence for each problem, each naming the setting.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            needed="settings without a problem",
            received=f"{len(self.problems)} with one ({'; '.join(self.problems)})",
            remedy="mend them and start again",
        )


class UnknownNameError(UsageError):
    """A name that the registry does not know."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed.

    Args:
        package: Import name of the missing package.
        extra: Extra of this project that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            needed=f"the package {package!r}",
            received="an environment without it",
            remedy=f"run: pip install 'mllm-msr[{extra}]'",
        )


class DataError(MllmMsrError):
    """A file, a column or a value that cannot be used."""


class ImageError(DataError):
    """An image that cannot be opened safely."""


class RunFolderError(MllmMsrError):
    """The run folder cannot be used as it is."""


class RunLockedError(RunFolderError):
    """Another process works in the run folder."""


class StaleStageError(RunFolderError):
    """A stage was finished under other settings or inputs."""


class DamagedFileError(RunFolderError):
    """A file's content is not what the manifest says was written."""


class BackendError(MllmMsrError):
    """A model or an endpoint failed."""


class CapabilityError(BackendError):
    """A backend was asked for something that it does not do."""


class AnswerTokenError(BackendError):
    """An answer word is not exactly one token after the rendered prompt."""


class PromptTooLongError(BackendError):
    """A prompt exceeds its budget and has nothing left that may be trimmed."""


class TrainingError(MllmMsrError):
    """Fine-tuning cannot go on."""


class NonFiniteLossError(TrainingError):
    """The loss or a weight became NaN or infinite."""
