"""The one error that the command lines turn into a line on standard error and exit code 2."""


class InputError(Exception):
    """Something the caller gave cannot be used.

    The message is one line: what was expected, what was found, and what to do next.
    """

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        self.expected, self.found, self.remedy = expected, found, remedy
        super().__init__(" ".join(f"expected {expected}; found {found}; {remedy}".split()))

    def __reduce__(self) -> tuple:
        return type(self), (self.expected, self.found, self.remedy)  # it travels between processes


class DamagedError(InputError):
    """A file of ours whose bytes are not the ones that were written."""
