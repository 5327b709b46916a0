"""The operator's errors. An error's type says whether trying again can help, and after how long."""

from __future__ import annotations


class OperatorError(Exception):
    """Base of all. `retry`: the same attempt may succeed later."""

    retry = True


class NotConfigured(OperatorError):
    """There is no way to an API server."""

    retry = False


class ApiUnreachable(OperatorError):
    """The API server did not answer, or not in time, or not with JSON."""


class ApiFailed(OperatorError):
    """The API server answered with an error. `said` is its own sentence; `after` its Retry-After in seconds."""

    def __init__(self, text: str, *, status: int, reason: str = "", said: str = "", after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.said = said
        self.after = after

    @property
    def conflict(self) -> bool:
        """Something else changed or made the object meanwhile."""
        return self.status == 409

    @property
    def of_the_object(self) -> bool:
        """What is sent is refused for what it says, by the API server, a quota or a webhook: a person must change something.

        A template of the wrong shape is answered by a 500 that speaks of a typed patch object, a webhook that does not answer by
        one that speaks of that.
        """
        ours = ("typed patch object", "failed calling webhook")
        return self.status in (400, 403, 422) or (self.status == 500 and any(words in self.said for words in ours))


class LeadershipLost(OperatorError):
    """The lease could not be renewed in time: another replica may act."""
