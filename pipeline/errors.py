"""The two families of failure: a refusal, which the user can mend, and everything else, which is a bug.

A refusal is shown as one message without a traceback, and the process ends with exit code 2.
Its text follows one form: `<address>: <what is wrong, with the values>; <what to do>`.
"""


class Refusal(Exception):
    """Something the user can mend. Nothing was lost, and nothing half-written is visible."""


class Problems(Refusal):
    """Several refusals found together, so that a recipe is mended once and not line by line."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))
