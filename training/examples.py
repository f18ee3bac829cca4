"""What training runs over: flat arrays of tokens, and units that point into them.

Cuts what is too long, drops what has nothing left, and counts it all. Knows no model and no table.
Legend: N responses, V tokens, R response tokens, U units, W responses of the largest unit, E extra responses of a unit,
L = 1 + H log-probabilities of one token: under the reference and under each policy of the history.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from models.tokens import Ids
from pipeline.artifact import Facts
from pipeline.errors import Refusal

NOBODY = -1
"""Stands in `units_U` where a unit has fewer responses than the largest."""


@dataclass(frozen=True)
class Examples:
    """All that training reads, as flat arrays."""

    tokens_V: np.ndarray
    """Prompt and response of each response, end to end, int64."""
    starts_N: np.ndarray
    """Where each response's sequence starts in `tokens_V`."""
    prompt_lengths_N: np.ndarray
    response_lengths_N: np.ndarray
    response_starts_N: np.ndarray
    """Where its response tokens start in `known_LR`, `phrases_R` and `kept_R`."""
    known_LR: np.ndarray
    """Log-probabilities that were computed before, float32, of response tokens alone; 0 where masked, and where nobody computed any."""
    referenced: bool
    """Whether the first of them are a reference's, and not made up."""
    extras_referenced: bool
    """The same of extra responses."""
    win_rates_N: np.ndarray | None
    scores_N: np.ndarray | None
    desirable_N: np.ndarray | None
    phrases_R: np.ndarray | None
    kept_R: np.ndarray | None
    """Which response tokens are trained on; None: all are."""
    trained_N: np.ndarray
    """How many of a response's tokens are trained on."""
    degrees_N: np.ndarray
    """How much was deleted from a response; 0 where nothing was."""
    units_UW: np.ndarray
    """Indices of responses: chosen and rejected, or one alone, or a group filled up with NOBODY."""
    extras_UE: np.ndarray
    """Indices of each unit's extra responses."""
    groups_U: np.ndarray
    """Units with the same prompt have the same number."""
    ids_U: list[str]
    """Of the row that a unit was made of."""
    labels_U: np.ndarray
    weights_U: np.ndarray
    facts: Facts

    @property
    def lengths_N(self) -> np.ndarray:
        """Tokens of prompt and response."""
        return self.prompt_lengths_N + self.response_lengths_N


@dataclass(frozen=True)
class Response:
    """One response as it was read."""

    ids: Ids
    known: tuple[np.ndarray | None, ...] = ()
    """Log-probabilities of its tokens under the reference and the history; None, or not there: nobody computed any."""
    win_rate: float = np.nan
    score: float = np.nan
    desirable: bool = True
    phrases: np.ndarray | None = None
    degree: int = 0
    mask: np.ndarray | None = None
    """Which of its tokens are trained on; None: all are."""

    @property
    def trained(self) -> int:
        """How many of its tokens are trained on."""
        return len(self.ids) if self.mask is None else int(self.mask.sum())


@dataclass(frozen=True)
class Unit:
    """What stands together in the loss, as it was read."""

    id: str
    prompt: Ids
    sides: tuple[Response, ...]
    extras: tuple[tuple[Ids, Response], ...] = ()
    """Prompt and response of each."""
    label: float = 1.0
    weight: float = 1.0


@dataclass
class ExamplesBuilder:
    """Examples in the making."""

    limit: int
    """Tokens of prompt and response together."""
    least: int
    """A unit is dropped if fewer of its responses than this have a token left to train on: 2 of pairs and groups."""
    paired: bool
    sequences: list[Ids] = field(default_factory=list)
    sides: list[Response] = field(default_factory=list)
    prompt_lengths: list[int] = field(default_factory=list)
    units: list[tuple[int, ...]] = field(default_factory=list)
    extras: list[tuple[int, ...]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    prompts: dict[bytes, int] = field(default_factory=dict)
    seen: dict[tuple[int, bytes, float, float, bytes, bytes], int] = field(default_factory=dict)
    masked_whole: int = 0
    """Responses that have tokens and are trained on none."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("rows", "retokenised", "truncated", "dropped"), 0))

    def add(self, unit: Unit) -> None:
        """Take a unit, unless nothing of it is left to train on within the limit."""
        sides = [self._cut(unit, unit.prompt, side) for side in unit.sides]
        filled = [side for side in sides if side.trained]
        self.masked_whole += sum(len(side.ids) > 0 and not side.trained for side in sides)
        if len(filled) < self.least:
            self.counts["dropped"] += 1
            return
        group = self.prompts.setdefault(unit.prompt.tobytes(), len(self.prompts))
        self.units.append(tuple(self._response(group, unit.prompt, side, once=self.paired) for side in filled))
        beside = [(prompt, self._cut(unit, prompt, side)) for prompt, side in unit.extras]
        self.extras.append(tuple(self._response(group, prompt, side, once=False) for prompt, side in beside))
        self.groups.append(group)
        self.ids.append(unit.id)
        self.labels.append(unit.label)
        self.weights.append(unit.weight)

    def _cut(self, unit: Unit, prompt: Ids, side: Response) -> Response:
        """The response within the limit; its log-probabilities may have been computed with a smaller cut, never for other tokens."""
        kept = min(len(side.ids), max(self.limit - len(prompt), 0))
        self.counts["truncated"] += kept < len(side.ids)
        for logps in side.known:
            if logps is not None and not kept <= len(logps) <= len(side.ids):
                raise Refusal(
                    f"reference: row {unit.id!r} has {len(logps)} log-probabilities for a response of {len(side.ids)} tokens, {kept} of "
                    "them trained on; compute them with this model's tokenizer and with at least this max_length"
                )
        known = tuple(None if logps is None else logps[:kept] for logps in side.known)
        phrases, mask = (None if each is None else each[:kept] for each in (side.phrases, side.mask))
        for logps in known:
            unknown = 0 if logps is None else int(np.isnan(logps if mask is None else logps[mask]).sum())
            if unknown:
                raise Refusal(
                    f"reference: row {unit.id!r} has no log-probability of {unknown} tokens that are trained on; "
                    "compute them over these very rows, with their masks"
                )
        return replace(side, ids=side.ids[:kept], known=known, phrases=phrases, mask=mask)

    def _response(self, group: int, prompt: Ids, side: Response, *, once: bool) -> int:
        """The index of a response; in pairs, one that is there already is not repeated."""
        phrases, mask = (b"" if each is None else each.tobytes() for each in (side.phrases, side.mask))
        key = (group, side.ids.tobytes(), side.win_rate, side.score, phrases, mask)
        if once and key in self.seen:
            return self.seen[key]
        if once:
            self.seen[key] = len(self.sequences)
        self.sequences.append(np.concatenate([prompt, side.ids]))
        self.prompt_lengths.append(len(prompt))
        self.sides.append(replace(side, ids=side.ids[:0].copy()))  # the tokens are in the sequence: do not keep the table alive
        return len(self.sequences) - 1

    def done(self, where: str, policies: int, *, referenced: bool, extras_referenced: bool) -> Examples:
        """The arrays. Raises Refusal if there is nothing to train on."""
        if not self.units:
            masked = f", {self.masked_whole} are masked out whole" if self.masked_whole else ""
            raise Refusal(
                f"rows: nothing to train on: of {self.counts['rows']} rows all were dropped, because no response token is left "
                f"within max_length {self.limit} ({self.counts['truncated']} responses were cut{masked}); "
                f"raise max_length, or check {where}"
            )
        weights = np.asarray(self.weights, np.float64)
        if weights.sum() <= 0:
            raise Refusal(f"rows: the weights of the {len(weights)} units add up to {weights.sum()}; give some of them a weight above 0")
        lengths = np.asarray([len(each) for each in self.sequences], np.int64)
        prompts = np.asarray(self.prompt_lengths, np.int64)
        responses = lengths - prompts
        kept = self._kept(responses.tolist())
        owners = np.repeat(np.arange(len(lengths)), responses)
        trained = responses if kept is None else np.bincount(owners[kept], minlength=len(lengths))
        facts = {**self.counts, "units": len(self.units), "responses": len(lengths), "tokens": int(lengths.sum())}
        if kept is not None:
            facts["masked"] = int((~kept).sum())
        return Examples(
            tokens_V=np.concatenate(self.sequences).astype(np.int64),
            starts_N=np.cumsum(lengths) - lengths,
            prompt_lengths_N=prompts,
            response_lengths_N=responses,
            response_starts_N=np.cumsum(responses) - responses,
            known_LR=self._known(policies, responses.tolist(), kept),
            referenced=referenced,
            extras_referenced=extras_referenced,
            win_rates_N=self._numbers("win_rate"),
            scores_N=self._numbers("score"),
            desirable_N=np.asarray([side.desirable for side in self.sides]),
            phrases_R=self._phrases(responses.tolist()),
            kept_R=kept,
            trained_N=trained,
            degrees_N=np.asarray([side.degree for side in self.sides], np.int64),
            units_UW=_filled(self.units),
            extras_UE=np.asarray(self.extras, np.int64),
            groups_U=np.asarray(self.groups, np.int64),
            ids_U=self.ids,
            labels_U=np.asarray(self.labels, np.float64),
            weights_U=weights,
            facts=facts,
        )

    def _known(self, policies: int, lengths: list[int], kept_R: np.ndarray | None) -> np.ndarray:
        def of(side: Response, i: int, length: int) -> np.ndarray:
            logps = side.known[i] if i < len(side.known) else None
            return np.zeros(length, np.float32) if logps is None else logps

        both = list(zip(self.sides, lengths, strict=True))
        found = np.stack([np.concatenate([of(side, i, length) for side, length in both]) for i in range(policies)]).astype(np.float32)
        return found if kept_R is None else np.where(kept_R, found, np.float32(0))

    def _kept(self, lengths: list[int]) -> np.ndarray | None:
        if all(side.mask is None or side.mask.all() for side in self.sides):
            return None
        both = zip(self.sides, lengths, strict=True)
        return np.concatenate([np.ones(length, bool) if side.mask is None else side.mask for side, length in both])

    def _numbers(self, name: str) -> np.ndarray | None:
        found = np.asarray([getattr(self.sides[i], name) for unit in self.units for i in unit], np.float64)
        return None if np.isnan(found).any() else np.asarray([getattr(side, name) for side in self.sides], np.float64)

    def _phrases(self, lengths: list[int]) -> np.ndarray | None:
        if any(self.sides[i].phrases is None for unit in self.units for i in unit):
            return None
        both = zip(self.sides, lengths, strict=True)
        return np.concatenate([np.zeros(length, np.int64) if side.phrases is None else side.phrases for side, length in both])


def _filled(units: list[tuple[int, ...]]) -> np.ndarray:
    width = max(len(unit) for unit in units)
    return np.asarray([[*unit, *[NOBODY] * (width - len(unit))] for unit in units], np.int64)
