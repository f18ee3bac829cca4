"""What became of the rows of a source: read, merged into a group, or left out, and why."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.artifact import Facts
from pipeline.errors import Refusal


@dataclass
class Counts:
    """Filled while rows are taken."""

    drops_malformed: bool
    read: int = 0
    merged: int = 0
    """Rows whose response joined the group of an earlier row."""
    responses: int = 0
    undecided: int = 0
    """Responses without a score."""
    score_sum: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    first_malformed: str | None = None
    _ids: set[str] = field(default_factory=set[str])

    def drop(self, reason: str, rows: int = 1) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + rows

    def malformed(self, problem: Refusal, rows: int = 1) -> Literal[False]:
        """Count what cannot be taken, or raise it."""
        if not self.drops_malformed:
            raise Refusal(f"{problem}, or leave such rows out (`malformed: drop`)") from None
        self.first_malformed = self.first_malformed or str(problem)
        self.drop("malformed", rows)
        return False

    def once(self, identity: str, where: str) -> bool:
        """Whether an id that the source gave is new; twice the same is malformed."""
        if identity in self._ids:
            return self.malformed(Refusal(f"{where}: has the id {identity!r} of an earlier row; give each row an id of its own"))
        self._ids.add(identity)
        return True

    def new(self, identity: str) -> bool:
        """Whether an id that was made of the row's content is new; the same content twice is a duplicate."""
        if identity in self._ids:
            self.drop("duplicates")
            return False
        self._ids.add(identity)
        return True

    def scored(self, scores: list[float | None]) -> None:
        decided = [score for score in scores if score is not None]
        self.responses += len(scores)
        self.undecided += len(scores) - len(decided)
        self.score_sum += sum(decided)

    def facts(self) -> Facts:
        found: Facts = {"merged": self.merged, "dropped": dict(sorted(self.dropped.items()))}
        if self.first_malformed is not None:
            found["first_malformed"] = self.first_malformed
        if self.responses:
            decided = self.responses - self.undecided
            found |= {"responses": self.responses, "undecided": self.undecided}
            found["mean_score"] = round(self.score_sum / decided, 6) if decided else None
        return found

    def told(self) -> str:
        """The reasons in words, with the first row that could not be taken."""
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items())) or "none was left out"
        return counts if self.first_malformed is None else f"{counts}; first {self.first_malformed}"
