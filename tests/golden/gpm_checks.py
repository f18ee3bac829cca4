"""Golden vectors of the General Preference Model: scores, probabilities and the loss of its training, with gradients.

Training it is nobody's business here; its loss is checked because its gradients hold the score to account.
"""

from typing import Any

from tests.golden.compare import Vector, same


def check_two(vector: Vector, dtype: str) -> None:
    """Batches of chosen and rejected embeddings, with a gate where the vector has one."""
    import torch

    from judges.gpm.network import preference

    kind, expected, tau = getattr(torch, dtype), vector["expected"], vector["params"]["tau"]
    given = {name: torch.tensor(value, dtype=kind, requires_grad=True) for name, value in vector["inputs"].items() if _numbers(value)}
    pairs = torch.stack([given["v_chosen"], given["v_rejected"]], dim=1)
    scores = preference(pairs, _gate(given))[:, 0, 1]
    loss = -torch.nn.functional.logsigmoid(scores / tau).mean()
    found = {
        "raw_score": scores.tolist(),
        "score_over_tau": (scores / tau).tolist(),
        "prob": torch.sigmoid(scores / tau).tolist(),
        "mean_prob": torch.sigmoid(scores / tau).mean().item(),
    }
    for name in expected.keys() & found.keys():
        same(name, found[name], expected[name], dtype, 1.0 / tau if "tau" in name else 1.0)
    if vector.get("expected_loss") is not None:
        same("loss", loss.item(), vector["expected_loss"], dtype, 1.0 / tau)
    loss.backward()
    for name, gradient in vector.get("expected_grads", {}).items():
        same(f"gradient of {name}", given[name].grad.tolist(), gradient, dtype, 1.0 / tau)


def check_table(vector: Vector, dtype: str) -> None:
    """All pairs of K embeddings."""
    import torch

    from judges.gpm.network import preference
    from metrics.win_rates import wins_pairwise

    inputs, expected = vector["inputs"], vector["expected"]
    given = {name: torch.tensor(value, dtype=getattr(torch, dtype)) for name, value in inputs.items() if _numbers(value)}
    table = preference(given["V"], _gate(given))
    same("scores", table.tolist(), expected["score_matrix"], dtype, 1.0)
    same("win table", [list(row) for row in wins_pairwise((table / vector["params"]["tau"]).tolist())], expected["prob"], dtype, 1.0)


def check(vector: Vector, dtype: str) -> None:
    (check_table if "V" in vector["inputs"] else check_two)(vector, dtype)


def _numbers(value: Any) -> bool:
    return isinstance(value, list)


def _gate(given: dict[str, Any]) -> Any:
    """The weights of the blocks: those themselves, logits for their softmax, or the prompt's hidden state and its head."""
    import torch

    names = [name for name in given if name not in ("v_chosen", "v_rejected", "V")]
    if not names:
        return None
    gate = given[names[0]]
    if len(names) == 2:
        head, hidden = sorted(names, key=lambda name: "head" not in name and "weight" not in name)
        return torch.softmax(given[hidden] @ given[head].T, dim=-1)
    assert len(names) == 1, f"which of {', '.join(names)} is the gate?"
    whole = bool((gate.detach() >= 0).all()) and torch.allclose(gate.detach().sum(-1), torch.ones_like(gate[..., 0]))
    return gate if whole else torch.softmax(gate, dim=-1)


CHECKS = {("GPM", "*"): check}
