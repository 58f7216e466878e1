"""Errors that a user or a file can cause, and the exit statuses of commands.

Any other error is a fault of the program and keeps its traceback.
"""

OK = 0
"""Exit status: done."""
CHECK_FAILED = 1
"""Exit status: a requested check failed."""
BAD_INPUT = 2
"""Exit status: wrong arguments or unusable input."""
PARTLY = 3
"""Exit status: done, but some files or ears could not be used."""
STOPPED = 75
"""Exit status: stopped by a signal; the same command continues."""


class UserError(Exception):
    """Wrong arguments or unusable input. The message is one line that names the file or flag and says what to do."""


class CheckFailed(Exception):
    """A check that the user requested has failed. The message says which."""


class Stopped(Exception):
    """A signal ended the work after its state was saved; the same command continues."""


class Rejected(Exception):
    """One item (file, series, ear) cannot be used. A map over many items records it and continues.

    reason: a short code that can be counted; detail: what was got and what was expected, without patient data.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type["Rejected"], tuple[str, str]]:
        return Rejected, (self.reason, self.detail)
