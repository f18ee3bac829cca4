"""Bad input, one row a mishap: what is done, the exact sentence shown, and that nothing is lost.

Every row drives the real command line over real files: exit code 2, the sentence alone on stderr, no traceback;
what was published before has the same bytes afterwards; and once the cause is mended the run goes on to the bytes
of a run that nothing befell.
"""

import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.artifact import digest_of
from tests.support import mishaps
from tests.support.core import digests
from tests.support.mishaps import (  # fmt: skip
    RECIPE,
    RUN,
    Act,
    Lasting,
    another_process,
    bad_line,
    both,
    cut,
    done,
    flip,
    killed_in_a_step,
    limit,
    move,
    other_width,
    parquet,
    read_only,
    real_model,
    remove,
    small_disk,
    text,
    write,
    write_prompts,
)


@dataclass(frozen=True)
class Row:
    """One mishap."""

    says: str
    """All of stderr without the `rematch: ` before each line; `{...}` is filled in, `/.../` is a regular expression, "" is no refusal."""
    sets: tuple[str, ...] = ()
    """Changes to the recipe, as --set takes them; they are part of the mishap."""
    breaks: Act = lambda here: None
    mends: Act | None = lambda here: None
    """Puts right what `breaks` broke (the recipe is put right by itself); None if there is nothing to go on with."""
    mended: tuple[str, ...] = ()
    """Changes to the recipe once it is mended."""
    command: str = RUN
    go_on: str | None = None
    """What goes on, where it is not the same command."""
    built: int | None = None
    """Rounds that the good recipe was run for before."""
    base: tuple[str, ...] = ()
    """Changes to the recipe that are no mishap."""
    under: Lasting | None = None
    """A context manager during which the mishap lasts."""
    process: str | None = None
    """Statements before the command in a process of its own; in this process if None."""
    apart: tuple[str, ...] = ()
    """Artifacts that need not have the bytes of the undisturbed run."""


WORDS = "start={words: {stage: tests.support.plugins.words, take: 10}}"
FULL = "the disk is full below runs/tiny; free some space and run again, finished parts are kept"
STALE = (
    "To keep what is there, run under another name (--run), or fork. To replace it: `rematch run ... --from {0}`; "
    "what is replaced moves to runs/tiny/attic."
)
TRANSFORMERS = f"{RUN} -s profile.engine.kind=transformers -s profile.engine.threads=1"
SFT = (
    "start.held={stage: demonstrations, source: {kind: letters, count: 8}}",
    "start.blank={stage: init, model: {model_type: llama, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, "
    "num_attention_heads: 1, num_key_value_heads: 1, max_position_embeddings: 32}, alphabet: abcdefgh}",
    "start.taught={stage: train, model: blank, rows: held, objective: {kind: sft}, learning_rate: 0.01, batch_size: 2, max_length: 32}",
)


def given(says: str, bad: str, good: str, table: str = "pairs", more: str = "") -> Row:
    """A row of somebody's own that cannot be taken in, after a good one, and the good one again."""
    return Row(
        says,
        base=("rounds=0", f"start.given={{stage: take, table: {table}, source: {{kind: jsonl, path: given.jsonl}}{more}}}"),
        breaks=text("given.jsonl", f"{good}\n{bad}\n"),
        mends=text("given.jsonl", f"{good}\n"),
    )


OR = ", or leave such rows out (`malformed: drop`)"
PAIR = '{"prompt": "q", "chosen": "a", "rejected": "b"}'
GROUP = '{"prompt": "q", "responses": ["a", "b"], "scores": [1, null]}'
OWN_PAIR = (
    '{"id": "x", "prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], '
    '"rejected": [{"role": "assistant", "content": "b"}], "chosen_win_rate": 0.75}'
)
MASKED_PAIR = (
    '{"id": "x", "prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], '
    '"rejected": [{"role": "assistant", "content": "b"}], "tokenizer": "t", "prompt_token_ids": [1], "chosen_token_ids": [2, 3], '
    '"rejected_token_ids": [4], "chosen_mask": [true, false]}'
)
OWN_GROUP = (
    '{"id": "x", "prompt": [{"role": "user", "content": "q"}], "responses": [{"text": "a"}, {"text": "b"}], "scores": [1.0, 0.0], '
    '"wins": [[0.5, 1.0], [0.0, 0.5]]}'
)

TAKEN: dict[str, Row] = {
    "take: no chosen": given(
        f"start/given: given.jsonl:2: no column 'chosen'; did you mean 'choosen'?; name it with `columns`, or mend the row{OR}",
        '{"prompt": "q", "choosen": "a", "rejected": "b"}', PAIR,
    ),
    "take: an empty text": given(
        f"start/given: given.jsonl:2: `rejected` is empty; mend the row{OR}", PAIR.replace('"b"', '" "'), PAIR
    ),
    "take: an empty prompt": given(
        f"start/given: given.jsonl:2: `prompt`: the prompt is empty; remove the row{OR}", PAIR.replace('"q"', '""'), PAIR
    ),
    "take: a mask of another length": given(
        "start/given: given.jsonl:2: `chosen_mask` has 1 flags for 2 tokens; give one flag for each token, or leave the mask out" + OR,
        MASKED_PAIR.replace("[true, false]", "[true]"), MASKED_PAIR,
    ),
    "take: an id twice": given(
        f"start/given: given.jsonl:2: has the id 'x' of an earlier row; give each row an id of its own{OR}",
        PAIR.replace("{", '{"id": "x", '), PAIR.replace("{", '{"id": "x", '),
    ),
    "take: equal sides and nothing else": Row(
        "start/given: no row is left of the 1 that were read (1 identical); look at the source, and at `shape`",
        base=("rounds=0", "start.given={stage: take, table: pairs, source: {kind: jsonl, path: given.jsonl}}"),
        breaks=text("given.jsonl", PAIR.replace('"b"', '"a"')), mends=text("given.jsonl", PAIR),
    ),
    "take: a group of one": given(
        "start/given: given.jsonl:2: a judged group has two responses or more, not 1; "
        f"add the others, or write `table: candidates`{OR}",
        '{"prompt": "p", "responses": ["a"], "scores": [1]}', GROUP, "judged",
    ),
    "take: scores of another length": given(
        f"start/given: given.jsonl:2: has 1 scores for 2 responses; give one to each, null where nobody knows{OR}",
        '{"prompt": "p", "responses": ["a", "b"], "scores": [1]}', GROUP, "judged",
    ),
    "take: a score that is no number": given(
        f"start/given: given.jsonl:2: scores[0] is nan; write null where there is no score{OR}",
        '{"prompt": "p", "responses": ["a", "b"], "scores": [NaN, 1]}', GROUP, "judged",
    ),
    "take: responses that are no list": given(
        f"start/given: given.jsonl:2: `responses` is a list, not 'a'; mend the row{OR}",
        '{"prompt": "p", "responses": "a", "scores": [1]}', GROUP, "judged",
    ),
    "take: a column that the table has not": given(
        "start/given: given.jsonl:2: no column 'chosen_win_rat'; did you mean 'chosen_win_rate'?; "
        "name the columns as the table 'pairs' has them",
        OWN_PAIR.replace("win_rate", "win_rat"), OWN_PAIR,
    ),
    "take: a win table of another size": given(
        f"start/given: given.jsonl:2: `wins` has lines of 2, 1 and is not 2 x 2; mend the table, or write null{OR}",
        OWN_GROUP.replace("[0.0, 0.5]]", "[0.5]]").replace('"x"', '"y"'), OWN_GROUP, "judged",
    ),
    "take: token ids of nobody": given(
        f"start/given: given.jsonl:2: has token ids and no `tokenizer`, so nobody knows whose they are; name it, or leave the ids out{OR}",
        OWN_PAIR.replace('"x", ', '"y", "chosen_token_ids": [5], '), OWN_PAIR,
    ),
    "take: pairs of rows that are groups": Row(
        "start/given: given.jsonl:1: shape 'group' gives judged groups and no pairs; write `table: judged`, and add a node "
        "{{stage: pair, judged: ..., rule: {{kind: best_vs_worst}}}}",
        base=("rounds=0", "start.given={stage: take, table: judged, source: {kind: jsonl, path: given.jsonl}}"),
        sets=("start.given.table=pairs",), breaks=text("given.jsonl", GROUP),
    ),
    "take: columns of no shape": Row(
        "/start/given: given.jsonl:1: its columns \\(question, good, bad\\) are of no known shape: 'preference' has chosen, rejected; .*; "
        "name `shape`, and its columns with `columns`/",
        base=("rounds=0", "start.given={stage: take, table: pairs, source: {kind: jsonl, path: given.jsonl}}"),
        breaks=text("given.jsonl", '{"question": "q", "good": "a", "bad": "b"}'), mends=text("given.jsonl", PAIR),
    ),
}  # fmt: skip
"""What is found in rows that somebody already has."""

PLANNED: dict[str, Row] = {
    "unknown stage": Row("round-01/judged: no stage 'jugde'; did you mean 'judge'?", ("round.judged.stage=jugde",)),
    "unknown stage of a package": Row(
        "round-01/judged: no module 'mylab.judge' can be imported; install it, or put its folder on PYTHONPATH",
        ("round.judged.stage=mylab.judge",),
    ),
    "no stage": Row("/round-01/judged: names no stage; write 'stage: ...', one of: adopt, .*, train/", ("round.judged={}",)),
    "unknown judge": Row("round-01/judged: judge: no judge 'lenght'; did you mean 'length'?", ("round.judged.judge.kind=lenght",)),
    "no kind": Row("/round-01/judged: judge: needs a 'kind'; known: .*length, .*/", ("round.judged.judge={unit: words}",)),
    "unknown field": Row("round-01/pairs: no field 'min_pair'; did you mean 'min_pairs'?", ("round.pairs.min_pair=3",)),
    "unknown field of a judge": Row("round-01/judged: judge: no field 'units'; did you mean 'unit'?", ("round.judged.judge.units=words",)),
    "missing field": Row("round-01/pairs: judged: is required; add it", ("round.pairs={stage: pair, rule: {kind: best_vs_worst}}",)),
    "unknown reference": Row(
        "round-01/pairs: judged: no node 'judgd'; did you mean 'judged'?", ("round.pairs.judged=judgd",), built=1
    ),
    "a reward model where a policy is read": Row(
        "round-01/candidates: model: 'policy' makes reward, but policy or endpoint is read here; "
        "write `as: policy` in start.policy if it is one, or name another node",
        ("start.policy.as=reward",),
    ),
    "a policy where a reward model is read": Row(
        "round-01/judged: judge.model: 'policy' makes policy, but reward is read here; "
        "write `as: reward` in start.policy if it is one, or name another node",
        command=f"{RUN} --set 'round.judged.judge={{kind: reward_model, model: policy}}'", mends=None,
    ),
    "an endpoint where weights are needed": Row(
        "round-01/scored: model: 'teacher' makes endpoint, but policy is read here; name another node",
        ("start.teacher={stage: adopt, endpoint: t}", "round.scored={stage: logprobs, model: teacher, rows: candidates}"),
    ),
    "unknown kind of model": Row(
        "start/policy: as: input should be 'policy', 'reward', 'value', 'preference' or 'ranker', not 'oracle'",
        command=f"{RUN} --set start.policy.as=oracle", mends=None,
    ),
    "unknown time": Row(
        "round-01/pairs: judged: 'judged@last': no time 'last'; known: all, prev, prev2, start", ("round.pairs.judged=judged@last",),
    ),
    "cycle": Row(
        "round-01/candidates: prompts: 'again' closes a cycle: again reads candidates; write 'again@prev' in one of them",
        ("round.candidates.prompts=again", "round.again={stage: slice, rows: candidates}"),
    ),
    "cycle in the start": Row(
        "start/one: prompts: 'two' closes a cycle: two reads one; let one of them read another node",
        ("start.one={stage: tests.support.plugins.shout, prompts: two}", "start.two={stage: tests.support.plugins.shout, prompts: one}"),
    ),
    "itself": Row(
        "round-01/pairs: judged: 'pairs' is this very node; write 'pairs@prev' for the one of the round before",
        ("round.pairs.judged=pairs",)
    ),
    "itself in the start": Row(
        "start/one: prompts: 'one' is this very node; read another node", ("start.one={stage: tests.support.plugins.shout, prompts: one}",)
    ),
    "reference to a later node": Row(
        "round-01/candidates: prompts: 'later' comes later in the recipe; move it above candidates, or write 'later@prev'",
        ("round.candidates.prompts=later", "round.later={stage: slice, rows: prompts}"),
    ),
    "reference to a later node in the start": Row(
        "start/one: prompts: 'two' comes later in the recipe; move it above one",
        ("start.one={stage: tests.support.plugins.shout, prompts: two}", "start.two={stage: tests.support.plugins.words}"),
    ),
    "start reads a round": Row(
        "start/one: prompts: 'pairs' is a node of the rounds, which the start cannot read; read it in a round, or move it to the start",
        ("start.one={stage: tests.support.plugins.shout, prompts: pairs}",),
    ),
    "prev without a start": Row(
        "round-01/pairs: judged: 'judged@prev' is start/judged here, and the start has no usable node 'judged'; add one, or read 'judged'",
        ("round.pairs.judged=judged@prev",),
    ),
    "prev without a round": Row(
        "round-02/candidates: model: 'policy@prev' is the 'policy' of the round before, and the round makes none; "
        "read 'policy@start', or add a node 'policy' to the round",
        ("round.candidates.model=policy@prev",),
    ),
    "reference of another kind": Row(
        "round-01/pairs: judged: 'candidates' makes candidates, but judged is read here; name another node",
        ("round.pairs.judged=candidates",)
    ),
    "wrong type": Row("round-01/candidates: n: input should be a valid integer, not [3]", ("round.candidates.n=[3]",)),
    "wrong type of a reference": Row("round-01/pairs: judged: takes the name of a node, not 7", ("round.pairs.judged=7",)),
    "wrong type of the recipe": Row(
        "tiny.yaml: rounds: input should be a valid integer, unable to parse string as an integer, not 'two'", ("rounds=two",),
    ),
    "out of range": Row(
        "round-01/candidates: temperature: input should be less than or equal to 2, not 3", ("round.candidates.temperature=3",),
    ),
    "wrong type of a node": Row("tiny.yaml: round.pairs: input should be a valid dictionary, not 'pair'", ("round.pairs=pair",)),
    "two problems at once": Row(
        "round-01/candidates: no field 'temprature'; did you mean 'temperature'?\n"
        "round-01/candidates: prompts: no node 'prompt'; did you mean 'prompts'?\n"
        "round-01/pairs: rule: no rule 'best_vs_wurst'; did you mean 'best_vs_worst'?",
        ("round.candidates.temprature=1", "round.candidates.prompts=prompt", "round.pairs.rule.kind=best_vs_wurst"),
        built=1,
    ),
    "objective without its reference": Row(
        "round-01/policy: reference: objective 'dpo' needs the reference's log-probabilities; "
        "add a node {{stage: logprobs, model: policy@prev, rows: pairs}} and name it here",
        ("round.policy={stage: train, model: policy@prev, rows: pairs, objective: {kind: dpo}}",),
    ),
    "a module that is no judge": Row(
        "round-01/judged: judge: module 'judges.__init__' has no VERSION, Config, judge, so it is not one of "
        "the judges; name another module",
        ("round.judged.judge.kind=judges.__init__",),
    ),
    "a stage that is a judge": Row(
        "round-01/judged: module 'judges.length' has no run, so it is not one of the stages; name another module",
        ("round.judged.stage=judges.length",),
    ),
    "a node outside the run": Row(
        "tiny.yaml: start.../evil.[key]: string should match pattern '^[a-z][a-z0-9_-]*$', not '../evil'",
        ("start={../evil: {stage: tests.support.plugins.words}}",),
    ),
    "by_round in the start": Row(
        "start/prompts: by_round stands in a node of the start, which has no rounds; write one value",
        ("start.prompts.take={by_round: [1, 2]}",),
    ),
    "by_round of nothing": Row(
        "round-01/candidates: by_round holds []; it takes a list with a value for each round", ("round.candidates.n={by_round: []}",)
    ),
    "not YAML": Row(
        "tiny.yaml: is not YAML (line 1, column 12: expected ',' or ']', but got '<stream end>'); mend the file",
        breaks=text("tiny.yaml", "name: [tiny"),
    ),
    "not UTF-8": Row(
        "tiny.yaml: is not UTF-8 (byte 6); save the file as UTF-8",
        breaks=lambda here: (here / "tiny.yaml").write_bytes(b"name: \xe9") and None
    ),
    "an empty recipe": Row("tiny.yaml: is empty; see recipes/ for examples", breaks=text("tiny.yaml")),
    "not a mapping": Row("tiny.yaml: holds list, not a mapping; see recipes/ for examples", breaks=text("tiny.yaml", "- tiny")),
    "a key twice": Row(
        "tiny.yaml: line 4 writes 'prompts' again, after line 3 of the same mapping; keep one of them",
        breaks=text("tiny.yaml", "name: tiny\nstart:\n  prompts: {{}}\n  prompts: {{}}\n".replace("{{}}", "{}")),
    ),
    "a key twice in a profile": Row(
        "test.yaml: line 2 writes 'kind' again, after line 2 of the same mapping; keep one of them",
        breaks=text("test.yaml", "name: test\nengine: {kind: canned, kind: vllm}\ntrainer: torch\n"), mends=None,
    ),
    "an alias of itself": Row(
        "tiny.yaml: line 1 holds an alias of itself; write out what is meant", breaks=text("tiny.yaml", "start: &a {x: *a}")
    ),
    "no finite number": Row(
        "tiny.yaml: line 1 holds .inf, which is no finite number; write one, or quote it", breaks=text("tiny.yaml", "seed: .inf")
    ),
    "extends a missing recipe": Row(
        "tiny.yaml: extends: no recipe 'spo-hard'; did you mean 'sppo-hard'? Or give the path of a YAML file.",
        breaks=text("tiny.yaml", "name: tiny\nextends: spo-hard\n"),
    ),
    "extends a missing file": Row(
        "tiny.yaml: extends: tset.yaml: there is no such file; did you mean 'test.yaml'?",
        breaks=text("tiny.yaml", "name: tiny\nextends: tset.yaml\n"),
    ),
    "extends itself": Row(
        "tiny.yaml: extends: tiny.yaml extends tiny.yaml, a circle; let one of them stand alone",
        breaks=text("tiny.yaml", "name: tiny\nextends: tiny.yaml\n"),
    ),
    "extends a profile": Row(
        "tiny.yaml: extends: test.yaml is no recipe (test.yaml: rounds: is required; add it); name one",
        breaks=text("tiny.yaml", "name: tiny\nextends: test.yaml\n"),
    ),
    "extends no name": Row(
        "tiny.yaml: extends: takes the name of a shipped recipe or the path of a file, not ['sppo']",
        breaks=text("tiny.yaml", "name: tiny\nextends: [sppo]\n"),
    ),
    "unknown value": Row(
        "tiny.yaml: round.candidates: '$tokns' names no value; did you mean 'tokens'?",
        ("values={tokens: 64}", "round.candidates.max_new_tokens=$tokns", "round.candidates.n=$tokens"),
    ),
    "unused value": Row(
        "tiny.yaml: values.tokens: no node reads '$tokens'; write '$tokens' where it is meant, or leave the value out",
        ("values={tokens: 64}",),
    ),
    "log-probabilities that end too soon": Row(
        "round-01/trained: reference: round-01/scored scores 32 tokens (its max_length), and 64 are trained on here; "
        "raise its max_length, or let both read one `$max_length`",
        (
            "round.scored={stage: logprobs, model: policy, rows: pairs, max_length: 32}",
            "round.trained={stage: train, model: policy, rows: pairs, reference: scored, objective: {kind: dpo}, max_length: 64}",
        ),
    ),
    # What is typed.
    "unknown recipe": Row("no recipe 'dmo'; did you mean 'demo'? Or give the path of a YAML file.", command="run dmo", mends=None),
    "unknown recipe file": Row(
        "/nowhere.yaml: there is no such file; give the path of a YAML file, or one of: .*demo, .*/", command="run nowhere.yaml", mends=None
    ),
    "unknown profile": Row(
        "no profile 'lapto'; did you mean 'laptop'? Or give the path of a YAML file.", command="run tiny.yaml -p lapto", mends=None
    ),
    "set an unknown path": Row(
        "--set round.judgd.judge.unit=words: no entry under round: 'judgd'; did you mean 'judged'?",
        command=f"{RUN} --set round.judgd.judge.unit=words", mends=None, built=1,
    ),
    "set an unknown field": Row(
        "round-01/judged: judge: no field 'unt'; did you mean 'unit'?", command=f"{RUN} --set round.judged.judge.unt=words", mends=None
    ),
    "set without a value": Row(
        "--set rounds: has no '='; write it as --set round.policy.learning_rate=1.0e-6", command=f"{RUN} --set rounds", mends=None
    ),
    "set what is not YAML": Row(
        "--set rounds=[: the value is not YAML (line 1, column 2: expected the node content, but found '<stream end>'); "
        "quote it, or close what is open",
        command=f"{RUN} --set rounds=[", mends=None
    ),
    "set an unknown field of the profile": Row(
        "test.yaml: engine: no field 'max_wrds'; did you mean 'max_words'?", command=f"{RUN} -s profile.engine.max_wrds=2", mends=None
    ),
    "unknown node in the profile": Row(
        "profile test, overrides: no node 'oracel'; known: candidates, judged, pairs, policy, prompts",
        command=f"{RUN} -s 'profile.overrides={{oracel: {{workers: 2}}}}'", mends=None,
    ),
    "unknown section in an override": Row(
        "profile test, overrides.judged: no field 'worker'; did you mean 'workers'?",
        command=f"{RUN} -s 'profile.overrides={{judged: {{worker: 2}}}}'", mends=None,
    ),
    "unknown field in an override": Row(
        "profile test, overrides.candidates: engine: no field 'max_wrds'; did you mean 'max_words'?",
        command=f"{RUN} -s 'profile.overrides={{candidates: {{engine: {{max_wrds: 2}}}}}}'", mends=None,
    ),
    "from an unknown round": Row(
        "--from round-09: the recipe has no such round or step; rounds: round-01, round-02, start",
        command=f"{RUN} --from round-09", mends=None, built=1,
    ),
    "from an unknown step": Row(
        "--from round-01/pears: the recipe has no such round or step; did you mean 'round-01/pairs'?",
        command=f"{RUN} --from round-01/pears", mends=None, built=1,
    ),
    "status of an unknown run": Row("tinny: is not a run; runs here: runs/tiny", command="status tinny", mends=None, built=1),
    "show an unknown run": Row(
        "tiny: is not a run; there are none in runs/ yet, and `rematch run demo` makes one", command="show tiny round-01/pairs", mends=None
    ),
    "show an unknown round": Row(
        "/round-07: no round 'round-07'; did you mean 'round-0[12]'\\?/", command="show tiny round-07", mends=None, built=1,
    ),
    "show an artifact that is not there": Row(
        "runs/tiny/round-01/pairs: is not there yet; `rematch run runs/tiny` builds what is missing",
        command="show tiny round-01/pairs", mends=None, built=1, breaks=done("retire tiny round-01/pairs"),
    ),
}  # fmt: skip
"""What is refused before anything runs, or is written."""

FOUND: dict[str, Row] = {
    # What a step finds.
    "missing model folder": Row(
        "start/policy: there is no model folder policies/best; check the path, or name a hub repository as 'org/name'",
        base=("start.policy.model=./policies/best",),
        mends=both(lambda here: (here / "policies").mkdir(), move("model", "policies/best")),
    ),
    "model folder without weights": Row(
        "start/policy: {here}/model: has no weights in safetensors, and pickled weights are not read; "
        "save the model again with `save_pretrained`",
        breaks=remove("model/model.safetensors"), mends=text("model/model.safetensors"),
    ),
    "a reward model adopted as a policy": Row(
        "start/policy: {here}/model/config.json: says LlamaForSequenceClassification with 1 label, so this is no policy; "
        "write `as: reward` or `as: value` if that is what it is, or adopt another model",
        breaks=text("model/config.json", '{"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}'),
        mends=text("model/config.json", "{}"),
    ),
    "a config.json that is cut short": Row(
        "/start/policy: {here}/model/config.json: is not JSON \\(.*\\); fetch the model again/",
        breaks=text("model/config.json", '{"architectures": ["Llama'), mends=text("model/config.json", "{}"),
    ),
    "model folder that is gone again": Row(
        "round-01/candidates: runs/tiny/start/policy: the model folder {here}/model that it adopted is gone; put it back, or adopt another",
        built=0, breaks=move("model", "moved"), mends=move("moved", "model"),
    ),
    "tokenizer without a chat template": Row(
        "round-01/candidates: {here}/model: its tokenizer has no chat template; "
        "use the instruction-tuned model, or put a chat_template.jinja in that folder",
        command=TRANSFORMERS,
        breaks=lambda here: real_model(here, template=False), mends=real_model,
        apart=("start/policy",),  # it records the digests that the folder had when it was adopted
    ),
    "weights that are cut short": Row(
        "/round-01/candidates: {here}/model: no causal language model can be loaded from it \\(.*\\); check the folder/",
        command=TRANSFORMERS,
        breaks=both(real_model, cut("model/model.safetensors", 100)), mends=real_model,
        apart=("start/policy",),
    ),
    "weights of another model": Row(
        "round-01/candidates: {here}/model: 21 weights of its LlamaForCausalLM are missing or have another shape, "
        "lm_head.weight among them; let config.json and the weights be of one model, saved whole",
        command=TRANSFORMERS,
        breaks=both(real_model, other_width), mends=real_model,
        apart=("start/policy",),
    ),
    "a chat template that takes no such messages": Row(
        "round-01/candidates: {here}/model: its chat template does not take these messages (no system); "
        "mend the template, or the roles of the prompts",
        command=TRANSFORMERS,
        breaks=both(real_model, text("model/chat_template.jinja", "{{ raise_exception('no system') }}")), mends=real_model,
        apart=("start/policy",),
    ),
    "prompt longer than the context": Row(
        "/round-01/candidates: prompt '[0-9a-f]{{16}}' has 103 tokens and the context of the model holds 64, which leaves no room for a "
        "response; shorten or drop it where the prompts are made, or use a model with a longer context/",
        command=TRANSFORMERS,
        breaks=both(lambda here: real_model(here, context=64),
        text("prompts.jsonl", '{"prompt": "say 1"}\n{"prompt": "%s"}\n' % ("say " * 25))),
        mended=("start.prompts.max_prompt_characters=40",), go_on=f"{TRANSFORMERS} --from start/prompts",
    ),
    "empty prompts file": Row(
        "start/prompts: prompts.jsonl: holds no rows; put one JSON object on each line",
        breaks=text("prompts.jsonl", "\n"), mends=write_prompts
    ),
    "prompts file that is missing": Row(
        "start/prompts: prompts.jsonl: no such file or directory; name a JSON Lines file that can be read",
        breaks=remove("prompts.jsonl"), mends=write_prompts,
    ),
    "malformed line": Row(
        "/start/prompts: prompts.jsonl:7: is not JSON \\(Expecting ',' delimiter, column \\d+\\); mend the line, or remove it/",
        breaks=bad_line, mends=write_prompts,
    ),
    "line without the field": Row(
        "start/prompts: prompts.jsonl:1: no field 'promt'; did you mean 'prompt'?; name the source's fields as the file has them",
        sets=("start.prompts.source.column=promt",),
    ),
    "Parquet without the column": Row(
        "start/prompts: prompts.parquet: no column 'prompt'; did you mean 'prompts'?; name the source's fields as the file has them",
        base=("start.prompts.source={kind: parquet, path: prompts.parquet}",),
        breaks=parquet("prompts"), mends=parquet("prompt"),
    ),
    "not Parquet": Row(
        "/start/prompts: prompts.parquet: cannot be read as Parquet \\(.*\\); check the file/",
        base=("start.prompts.source={kind: parquet, path: prompts.parquet}",),
        breaks=text("prompts.parquet", "say 1\n" * 5), mends=parquet("prompt"),
    ),
    "no prompt is left": Row(
        "start/prompts: no prompt is left of the 10 that were read (0 duplicates, 10 too long); loosen the limits",
        sets=("start.prompts.max_prompt_characters=2",),
    ),
    "zero pairs": Row(
        "round-01/pairs: rule 'best_vs_worst' made 0 pairs of 10 groups, at least 1 are needed (10 tie); "
        "loosen the rule's filters, or look at the judge and the candidates",
        command=f"{RUN} -s profile.engine.responses=[same]",
        mended=("round.pairs.rule={kind: best_vs_worst, tie: keep, identical: keep}",),
    ),
    "too many undecided": Row(
        "round-01/judged: judge 'exact_answer' left 30 of 30 responses undecided (100.0%, at most 10.0% are allowed); "
        "check what it needs (a reference answer, a model), or raise `max_undecided`",
        sets=("round.judged.judge.kind=exact_answer",),
    ),
    "training that diverges": Row(
        "/start/taught: training: loss is nan at step 2 of 4 \\(learning rate 7.5e\\+29\\); nothing was kept of this step: "
        "lower learning_rate .*/",
        base=("rounds=0", *SFT), sets=("start.taught.learning_rate=1.0e+30",),
    ),
    # The run folder and the disk.
    "full disk": Row(
        f"round-01/candidates: {FULL}", command=f"{RUN} --rounds 1", built=0, base=("rounds=1",), process=limit(900),
    ),
    "full disk, seen on a disk": Row(f"/(start|round-0[12])/\\w+: {FULL}/", under=small_disk("44k")),
    "full disk before the first step": Row(f"runs/tiny: {FULL}", process=limit(100)),
    "full disk under a model": Row(f"start/blank: {FULL}", base=("rounds=0", *SFT), under=small_disk("44k")),
    "full disk under a checkpoint": Row(
        f"start/taught: {FULL}", base=("rounds=0", *SFT), under=small_disk("90k"), command=f"{RUN} -s profile.trainer.checkpoint_steps=1"
    ),
    "read-only run folder": Row(
        "runs/tiny: cannot be written ({denied}); check its permissions, or choose another --runs folder",
        built=1, under=read_only("runs/tiny"),
    ),
    "read-only round": Row(
        "/round-01/candidates: runs/tiny/round-01/\\.candidates\\.[0-9a-f]{{16}} cannot be written \\({denied}\\); check its permissions/",
        built=0, breaks=lambda here: (here / "runs/tiny/round-01").mkdir(), under=read_only("runs/tiny/round-01"),
    ),
    "a file in place of the run folder": Row(
        "runs/tiny: cannot be written (File exists); check its permissions, or choose another --runs folder",
        breaks=both(lambda here: (here / "runs").mkdir(), text("runs/tiny")), mends=remove("runs/tiny"),
    ),
    "a file in place of a round": Row(
        "round-01/candidates: runs/tiny/round-01 is not a folder; move it away and run again",
        built=0, breaks=text("runs/tiny/round-01"), mends=remove("runs/tiny/round-01"),
    ),
    "a second process": Row(
        "/runs/tiny: is held by process {pid} on {host}, since [-0-9: ]+; wait for it, or end it/",
        base=("rounds=0", WORDS, "start.nap={stage: tests.support.plugins.sleepy, prompts: words, seconds: 0.1}"), under=another_process,
    ),
    "a corrupted shard of a draft": Row(
        "", base=("rounds=0", WORDS, "start.loud={stage: tests.support.plugins.shout, prompts: words}"), under=killed_in_a_step
    ),
    "a corrupted artifact": Row(
        "round-02/candidates: runs/tiny/start/prompts/data-00000.parquet: its digest differs from its manifest's, "
        "so the bytes have changed; "
        "`rematch retire runs/tiny start/prompts` moves it to the attic, then run again",
        built=1, breaks=flip("runs/tiny/start/prompts/data-00000.parquet"), process="", mends=done("retire tiny start/prompts"),
    ),
    "an artifact cut short": Row(
        "/round-01/judged: is corrupt: runs/tiny/round-01/judged/data-00000.parquet: has \\d+ bytes, "
        "its manifest says \\d+; `rematch retire "
        "runs/tiny round-01/judged` moves it to the attic, then run again\nruns/tiny: nothing was run. "
        + re.escape(STALE.format("round-01/judged")) + "/",
        built=1, breaks=cut("runs/tiny/round-01/judged/data-00000.parquet"), mends=done("retire tiny round-01/judged"),
    ),
    "a manifest cut short": Row(
        "round-01/judged: is corrupt: runs/tiny/round-01/judged/manifest.json: is not as it was written, its seal does not fit; "
        "`rematch retire runs/tiny round-01/judged` "
        "moves it to the attic, then run again\nruns/tiny: nothing was run. " + STALE.format("round-01/judged"),
        built=1, breaks=cut("runs/tiny/round-01/judged/manifest.json"), mends=done("retire tiny round-01/judged"),
    ),
    "a base that is missing under what leans on it": Row(
        "start/thin: is corrupt: runs/tiny/start/thin: leans on start/words, which is missing; put that back, or "
        "`rematch retire runs/tiny start/thin` moves it to the attic, then run again\nruns/tiny: nothing was run. "
        + STALE.format("start/thin"),
        built=0, base=("rounds=0", WORDS, "start.thin={stage: tests.support.plugins.leans, prompts: words}"),
        breaks=move("runs/tiny/start/words", "words"), mends=move("words", "runs/tiny/start/words"),
    ),
    "rows that cannot be shown": Row(
        "/runs/tiny/round-01/judged/data-00000.parquet: .*; run `rematch verify`, then `rematch retire` the step and run again/",
        built=1, breaks=flip("runs/tiny/round-01/judged/data-00000.parquet"), command="show tiny round-01/judged", mends=None, process="",
    ),
    "a changed recipe": Row(
        "round-01/candidates: is stale: n: 3 -> 4\nruns/tiny: nothing was run. 2 more that read them are stale too. "
        + STALE.format("round-01/candidates"),
        sets=("round.candidates.n=4",), built=1,
    ),
    "a changed seed": Row(
        "round-01/candidates: is stale: seed: 0 -> 3\nround-01/judged: is stale: seed: 0 -> 3\n"
        "round-01/pairs: is stale: seed: 0 -> 3\nruns/tiny: nothing was run. " + STALE.format("round-01/candidates"),
        sets=("seed=3",), built=1,
    ),
    "a fork onto another disk": Row(
        "elsewhere/new: is on another disk than runs/tiny, and a fork shares files by hard link; fork to a folder beside it",
        command="fork tiny elsewhere/new --at round-01", mends=None, built=1, under=small_disk("1m", "elsewhere"),
    ),
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    mishaps.lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for line in Path("/proc/self/mounts").read_text().splitlines()[::-1]:
        place = line.split()[1]
        if place.startswith(f"{tmp_path}/"):
            subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("name", [*PLANNED, *FOUND, *TAKEN])
def test_bad_input_is_one_sentence_and_nothing_is_lost(name, here, capfd):
    row = {**PLANNED, **FOUND, **TAKEN}[name]
    if row.built is not None:
        write(here / "tiny.yaml", RECIPE, *row.base, f"rounds={row.built}")
        assert cli.call(shlex.split(RUN)) == 0
    write(here / "tiny.yaml", RECIPE, *row.base, *row.sets)
    row.breaks(here)
    whole = files(here, "**/*")
    before = published(here)
    with (row.under or nullcontext)(here):
        code, err = ended(here, row, capfd)
    if not row.says:
        assert (code, err) == (0, "")
    else:
        assert code == 2, err
        assert_said(err, row.says, here)
    assert before.items() <= published(here).items()
    if name in PLANNED:
        assert files(here, "**/*") == whole, "something was run, or written"
    if row.mends is None:
        return
    row.mends(here)
    write(here / "tiny.yaml", RECIPE, *row.base, *row.mended)
    assert cli.call(shlex.split(row.go_on or row.command)) == 0, capfd.readouterr().err
    assert cli.call(shlex.split(f"{row.command} --run whole")) == 0, capfd.readouterr().err
    got, wanted = digests(here / "runs/tiny"), digests(here / "runs/whole")
    for address in row.apart:
        got.pop(address), wanted.pop(address)
    assert got == wanted and got


def ended(here: Path, row: Row, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and stderr of the row's command."""
    capfd.readouterr()
    if row.process is None:
        return cli.call(shlex.split(row.command)), capfd.readouterr().err
    process = mishaps.started(here, row.command, row.process)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def assert_said(err: str, says: str, here: Path) -> None:
    """`err` is what `says`, every line of it under the program's name."""
    expression = says.startswith("/") and says.endswith("/")
    words = {"here": str(here), "pid": str((mishaps.HOLDER or [0])[0]), "host": socket.gethostname(), "denied": mishaps.DENIED}
    filled = says.strip("/").format(**{name: re.escape(word) for name, word in words.items()} if expression else words)
    lines = "".join(f"rematch: {line}\n" for line in filled.split("\n"))
    assert re.fullmatch(lines, err) if expression else err == lines, f"\n{err}\n{lines}"


def files(here: Path, pattern: str) -> dict[str, str]:
    return {str(path): digest_of(path) for path in here.glob(pattern) if path.is_file() and path.name != "LOCK"}


def published(here: Path) -> dict[str, str]:
    """The digest of every file of every artifact of the run."""
    return {name: found for path in here.glob("runs/*/[rs]*/[a-z]*/manifest.json") for name, found in files(path.parent, "*").items()}
