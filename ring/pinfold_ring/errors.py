"""What the ring library raises: one tree, so that a caller needs one `except`."""


class RingError(Exception):
    """Base of every error of this library; the message is meant for the operator."""


class BadTopology(RingError):
    """The devices contradict each other or cannot carry what is asked; nothing was changed."""


class BadRingFile(RingError):
    """The bytes are not a ring (or builder) file this library can trust.

    `reason` is stable, for programs: `truncated`, `magic`, `version`, `size`, `checksum`, `header`
    or `table`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
