"""Golden vectors that nothing here checks, and why: (method, variant) or (method, "*")."""

REASONS: dict[tuple[str, str], str] = {
    ("PairRM", "checkpoint-level reference logits (needs llm-blender/PairRM-hf weights, fp32)"): "needs weights from a hub",
    ("SPPO", "verl recipe: soft-mean baseline + squared log-ratio regression"): "an online estimator of another framework, no form of ours",
    ("DPO-family(baseline in SPPO trainer)", "kto_pair"): "a paired form of KTO that its authors' and TRL's code dropped",
    ("PairRM", "*"): "needs weights, or is the training loss of a judge that is read here",
    ("upo_bald", "*"): "needs a reward model with dropout left on; uncertainty is read from labels here",
    ("ppo_max", "*"): "needs a value model; there is no trainer with one",
    ("mcts_dpo_step_loss", "*"): "tree search is not built",
    ("mcts_dpo_confidence", "*"): "tree search is not built",
    ("mcts_dpo_search", "*"): "tree search is not built",
    ("itool_overlap", "*"): "tree search is not built",
    ("secrets2_rm", "*"): "reward models are read here, not trained",
    ("pit_rm", "*"): "reward models are read here, not trained",
    ("mapl_intra_rcdpo", "*"): "pairs of prompts are not built",
}
