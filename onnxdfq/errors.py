"""The one error type that users of onnxdfq meet."""


class OnnxdfqError(Exception):
    """Something the user can act on: ``message`` says what is wrong, ``hint`` what to try."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return ". ".join(part.rstrip(".") for part in (self.message, self.hint) if part)
