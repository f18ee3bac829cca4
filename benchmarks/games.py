"""Duality gaps of the self-play methods in the games of tests/support/games: the table of docs/games.md and its plot.

Run it as `python -m benchmarks.games`; it takes about a minute on one core. It writes between the markers of docs/games.md,
and docs/games.svg. Everything is exact or seeded: a second run changes nothing, though on another machine what circles or
collapses may end elsewhere.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.panels import Line, Panel, drawing
from tests.support.games import methods, preferences
from tests.support.games.judges import Judge, Noisy
from tests.support.games.measure import averages, distances, gaps, play
from tests.support.games.methods import Method
from tests.support.games.preferences import Game

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- begin: python -m benchmarks.games -->", "<!-- end -->"
TAU = 0.1
STEPS = {"plain": 256, "regularised": 64}
COMPARISONS = 256
"""What the noisy judge is asked in a step: so many opponents of each response, and so many pairs."""

PLAIN: dict[str, Method] = {
    "SPPO, eta 0.25": methods.sppo(0.25),
    "accelerated SPPO, eta 0.25, alpha 0.3": methods.accelerated_sppo(0.25, 0.3),
    "SPO, eta 0.25": methods.spo(0.25),
    "DPO on the last policy's pairs, beta 16 (SPPO's step)": methods.iterated_dpo(0.25),
    "DPO on the last policy's pairs, beta 0.1 (DPO's default)": methods.iterated_dpo(40.0),
    "DPO on the start's pairs, beta 4": methods.offline_dpo(1.0),
}
REGULARISED: dict[str, Method] = {
    "EGPO, eta 1": methods.egpo(TAU, 1.0),
    "EGPO, eta 4": methods.egpo(TAU, 4.0),
    "Online IPO 1, eta 1": methods.online_ipo(TAU, 1.0),
    "Online IPO 1, eta 4": methods.online_ipo(TAU, 4.0),
    "Online IPO 2, learning rate 0.3": methods.online_ipo_2(TAU, 0.3),
    "INPO, eta 1": methods.inpo(TAU, 1.0),
    "INPO, eta tau (t + 2) / 2": methods.inpo(TAU, None),
    "MNPO, eta 1, two opponents": methods.mnpo(TAU, 1.0, 2),
    "Nash-MD, eta 1": methods.nash_md(TAU, 1.0),
    "Nash-MD, eta 2 / (tau (t + 2))": methods.nash_md(TAU, None),
    "Nash-MD-PG, learning rate 4, mixture 0.1": methods.nash_md_pg(TAU, 4.0, 0.1),
    "DPO by gradient steps, learning rate 8": methods.dpo_steps(TAU, 8.0),
    "DPO fitted each round": methods.online_dpo(TAU),
    "IPO fitted each round (INPO, eta tau)": methods.inpo(TAU, TAU),
}

PLOTTED = (
    "EGPO, eta 1",
    "EGPO, eta 4",
    "INPO, eta 1",
    "INPO, eta tau (t + 2) / 2",
    "MNPO, eta 1, two opponents",
    "Nash-MD, eta 1",
    "Nash-MD, eta 2 / (tau (t + 2))",
    "DPO fitted each round",
)
"""Of the regularised game; more lines could not be told apart."""


def main() -> None:
    torch.set_num_threads(1)
    order, cycle, random = preferences.transitive(), preferences.rock_paper_scissors(), preferences.random_skew()
    arenas: dict[str, tuple[Game, Callable[[], Judge | None]]] = {
        **{game.name: (game, lambda: None) for game in (order, cycle, random)},
        "cyclic, noisy": (cycle, lambda: Noisy(cycle.preference_NN, COMPARISONS, seed=0)),
    }
    plain = {
        name: {arena: play(of, game, STEPS["plain"], judge()) for arena, (game, judge) in arenas.items()} for name, of in PLAIN.items()
    }
    print("without regularisation: played", flush=True)
    regularised = {
        name: {arena: play(of, game, STEPS["regularised"], judge()) for arena, (game, judge) in arenas.items()}
        for name, of in REGULARISED.items()
    }
    print("with regularisation: played", flush=True)
    games = {arena: game for arena, (game, _) in arenas.items()}
    text = "\n".join(
        [
            f"Duality gap after {STEPS['plain']} steps, last policy / average policy:",
            "",
            *_table(plain, lambda path, arena: _ends(path, games[arena], 0.0)),
            "",
            f"Duality gap of the regularised game after {STEPS['regularised']} steps, last policy / average policy:",
            "",
            *_table(regularised, lambda path, arena: _ends(path, games[arena], TAU)),
            "",
            f"KL(regularised Nash policy || last policy), in nats, after {STEPS['regularised']} steps:",
            "",
            *_table(regularised, lambda path, arena: _number(distances(path[-1:], games[arena], TAU)[0])),
        ]
    )
    page = DOCS / "games.md"
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")
    panels = [_plain_panel(plain, game) for game in (cycle, random)] + [_regularised_panel(regularised, game) for game in (cycle, random)]
    (DOCS / "games.svg").write_text(drawing(panels))
    print(text)


def _table(paths: dict[str, dict[str, Tensor]], cell: Callable[[Tensor, str], str]) -> list[str]:
    columns = list(next(iter(paths.values())))
    lines = ["| method | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    return lines + [f"| {name} | " + " | ".join(cell(path, arena) for arena, path in of.items()) + " |" for name, of in paths.items()]


def _ends(path_TN: Tensor, game: Game, tau: float) -> str:
    last, average = gaps(path_TN[-1:], game, tau)[0], gaps(averages(path_TN)[-1:], game, tau)[0]
    return f"{_number(last)} / {_number(average)}"


def _number(value: float) -> str:
    """Two digits; what float64 cannot tell from nothing is 0."""
    return "0" if value < 1e-14 else f"{value:.1e}" if value < 0.001 else f"{value:.2g}"


def _plain_panel(paths: dict[str, dict[str, Tensor]], game: Game) -> Panel:
    lines = [Line(f"{name}: average", gaps(averages(of[game.name]), game)) for name, of in paths.items()]
    first = next(iter(paths))
    lines.append(Line(f"{first}: last", gaps(paths[first][game.name], game), dashed=True))
    return Panel(f"{game.name}: duality gap", lines, log_steps=True, lowest=0.003)


def _regularised_panel(paths: dict[str, dict[str, Tensor]], game: Game) -> Panel:
    lines = [Line(name, gaps(paths[name][game.name], game, TAU)) for name in PLOTTED]
    return Panel(f"{game.name}, regularised: gap of the last policy", lines, log_steps=False, lowest=1e-12)


if __name__ == "__main__":
    main()
