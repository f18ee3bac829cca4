"""Golden vectors of objectives of single responses, of groups, and of tokens.

Legend: N responses, T tokens, V words of the vocabulary, K responses of a group.
"""

from typing import Any

from tests.golden.compare import Vector, same


def _inputs(vector: Vector, dtype: str) -> Any:
    import torch

    from tests.golden import laid

    return laid.Inputs(vector, getattr(torch, dtype))


def check_kto(vector: Vector, dtype: str) -> None:
    import torch

    from objectives import Batch
    from tests.golden import laid

    inputs, params = _inputs(vector, dtype), vector["params"]
    policy = inputs.leaf("policy_logps")
    batch = Batch(
        logps_NT=policy[:, None],
        mask_NT=torch.ones(len(policy), 1, dtype=torch.bool),
        ref_logps_NT=inputs.fixed("ref_logps")[:, None],
        desirable_N=torch.tensor(vector["inputs"]["label"], dtype=torch.bool),
        extra=(laid.extra(inputs.fixed("policy_kl_logps"), inputs.fixed("ref_kl_logps")),),
    )
    settings = {name: params[name] for name in ("beta", "desirable_weight", "undesirable_weight") if name in params}
    laid.check(inputs, dtype, batch, "kto", **settings)


def check_nash_md(vector: Vector, dtype: str) -> None:
    import torch

    from objectives import Batch, nash_md
    from tests.golden import laid

    inputs, parts = _inputs(vector, dtype), vector["expected_parts"]
    policy = inputs.leaf("model_logprobs_model_data")
    batch = Batch(
        logps_NT=policy,
        mask_NT=torch.ones(policy.shape, dtype=torch.bool),
        ref_logps_NT=inputs.fixed("ref_logprobs_model_data"),
        win_rate_N=inputs.fixed("probability"),
    )
    config = nash_md.Config(beta=vector["params"]["beta"])
    same("KL", nash_md.loss(config, batch).terms["logratio"].tolist(), parts["kl"], dtype, 1.0)
    same("score", ((batch.win_rate_N - 0.5) * policy.sum(-1)).tolist(), parts["score"], dtype, 1.0)
    laid.check(inputs, dtype, batch, "nash_md", beta=config.beta)


def check_grpo(vector: Vector, dtype: str) -> None:
    """Advantages are made of the scores, in groups of the size that gives the vector's."""
    import torch

    from objectives import Batch, grpo
    from tests.golden import laid

    inputs, params = _inputs(vector, dtype), vector["params"]
    reduction, importance = vector["variant"].split("/")
    config = grpo.Config(
        beta=params["beta"],
        epsilon_low=params["epsilon_low"],
        epsilon_high=params["epsilon_high"],
        reduction=reduction,
        importance=params.get("importance_sampling_level", importance),
        max_response_tokens=params["max_completion_length"],
        scale="none" if reduction == "dr_grpo" else "group",
        kl="corrected" if params["use_bias_correction_kl"] else "k3",
    )
    policy, expected = inputs.leaf("policy_token_logps"), vector["inputs"]["advantages"]

    def grouped(size: int) -> Batch:
        return Batch(
            logps_NT=policy,
            mask_NT=torch.tensor(vector["inputs"]["completion_mask"], dtype=torch.bool),
            ref_logps_NT=inputs.fixed("ref_token_logps"),
            history_HNT=inputs.fixed("old_token_logps")[None],
            score_N=inputs.fixed("rewards"),
            group_N=torch.arange(len(policy)) // size,
        )

    tried = [grouped(size) for size in range(len(policy), 1, -1) if len(policy) % size == 0]
    close = [batch for batch in tried if torch.allclose(grpo.advantages(config, batch), inputs.fixed("advantages"), rtol=1e-4, atol=1e-5)]
    same("advantages", grpo.advantages(config, (close or tried)[0]).tolist(), expected, dtype, 1.0)
    laid.check(inputs, dtype, (close or tried)[0], "grpo", **config.model_dump())


def check_pro(vector: Vector, dtype: str) -> None:
    """The likelihood term is the best response's, which is the first of those with the best score."""
    import torch

    from objectives import Batch
    from tests.golden import laid

    given, params, expected = vector["inputs"], vector["params"], vector["expected_loss"]
    inputs = _inputs(vector, dtype)
    sums = inputs.leaf("sum_logps" if "sum_logps" in given else "policy_sum_logps")
    groups, size = sums.shape
    assert given["sft_index"] == [row.index(max(row)) for row in given["rewards"]], "the best response is not the one to imitate"
    lengths = given.get("token_counts", given.get("lengths"))
    mask_NT = laid.mask([length for row in lengths for length in row])
    batch = Batch(
        logps_NT=laid.spread(sums.reshape(-1), mask_NT),
        mask_NT=mask_NT,
        score_N=inputs.fixed("rewards").reshape(-1),
        group_N=torch.arange(groups).repeat_interleave(size),
    )
    if isinstance(expected, dict):
        same("parts", sum(expected["rank_losses"]) + expected["sft_term"], expected["total"], dtype, 1.0)
        inputs.vector = {**vector, "expected_loss": expected["total"]}
    laid.check(inputs, dtype, batch, "pro", sft_weight=params["sft_weight"], epsilon=params.get("eps", 1e-10))


def check_wpo(vector: Vector, dtype: str) -> None:
    """The reference is given as sums, the policy by tokens."""
    from dataclasses import replace

    import torch

    from tests.golden import laid

    inputs, params, given = _inputs(vector, dtype), vector["params"], vector["inputs"]
    names = ("policy_chosen_token_logps", "policy_rejected_token_logps")
    mask_NT = laid.mask([len(row) for name in names for row in given[name]])
    reference = laid.spread(torch.cat([inputs.fixed("ref_chosen_logps"), inputs.fixed("ref_rejected_logps")]), mask_NT)
    batch = laid.paired(inputs.ragged(*names, grad=True), mask_NT, [reference])
    batch = replace(batch, log_sum_sq_NT=inputs.ragged("chosen_log_sum_sq_probs", "rejected_log_sum_sq_probs"))
    laid.check(inputs, dtype, batch, "wpo", beta=params["beta"], clamp=params.get("clamp_max"))


def check_sparse(vector: Vector, dtype: str) -> None:
    """From both models' logits; masks have gradients too. Masks of activations are MaPO's."""
    from dataclasses import replace

    import torch

    from tests.golden import laid

    inputs, params, sides = _inputs(vector, dtype), vector["params"], ("chosen", "rejected")
    policy = torch.cat([inputs.leaf(f"policy_{side}_logits") for side in sides]).log_softmax(-1)
    reference = torch.cat([inputs.fixed(f"ref_{side}_logits") for side in sides]).log_softmax(-1)
    ids_NT = torch.cat([torch.tensor(vector["inputs"][f"{side}_labels"]) for side in sides])
    mask_NT = torch.cat([torch.tensor(vector["inputs"][f"{side}_mask"], dtype=torch.bool) for side in sides])
    batch = replace(
        laid.paired(_of(policy, ids_NT), mask_NT, [_of(reference, ids_NT)]),
        token_kl_NT=_kl(reference, policy),
        reward_mask_NT=torch.cat([inputs.leaf(f"reward_mask_{side}") for side in sides]),
        kl_mask_NT=torch.cat([inputs.leaf(f"kl_mask_{side}") for side in sides]),
    )
    prices = {name: params[name] for name in ("l1_u", "l1_d")}
    if "mapo" in vector["variant"]:
        assert not any(prices.values()), "masks that are not learned have no price"
        laid.check(inputs, dtype, batch, "mapo", beta=params["beta"])
    else:
        laid.check(inputs, dtype, batch, "sparsepo", beta=params["beta"], **prices)


def check_rrpo(vector: Vector, dtype: str) -> None:
    """From both models' logits, of which each speaks of the next token; the first half of the rows is chosen."""
    from dataclasses import replace

    import torch

    from tests.golden import laid

    inputs, given, params = _inputs(vector, dtype), vector["inputs"], vector["params"]
    policy, reference = inputs.leaf("policy_logits")[:, :-1].log_softmax(-1), inputs.fixed("ref_logits")[:, :-1].log_softmax(-1)
    ids_NT, phrase_NT = torch.tensor(given["labels"])[:, 1:], torch.tensor(given["phrase_ids"])[:, 1:]
    mask_NT, ids_NT = ids_NT >= 0, ids_NT.clamp(min=0)
    batch = laid.paired(torch.where(mask_NT, _of(policy, ids_NT), 0.0), mask_NT, [_of(reference, ids_NT)])
    batch = replace(batch, token_kl_NT=_kl(reference, policy), phrase_NT=phrase_NT)
    laid.check(inputs, dtype, batch, "rrpo", beta=params["beta"], alpha=params["alpha"])


def _of(logps_NTV: Any, ids_NT: Any) -> Any:
    return logps_NTV.gather(-1, ids_NT[..., None])[..., 0]


def _kl(reference_NTV: Any, policy_NTV: Any) -> Any:
    return (reference_NTV.exp() * (reference_NTV - policy_NTV)).sum(-1)


CHECKS = {
    ("kto", "*"): check_kto,
    ("Nash-MD", "TRL NashMD-PG loss"): check_nash_md,
    ("grpo", "*"): check_grpo,
    ("pro", "*"): check_pro,
    ("pro_listwise", "*"): check_pro,
    ("wpo", "*"): check_wpo,
    ("sparsepo", "*"): check_sparse,
    ("rrpo", "*"): check_rrpo,
}
