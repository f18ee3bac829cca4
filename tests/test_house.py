"""The guard rails of the house: layers, plugin contracts, keys that change only on purpose, and files that stay small."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import engines
import judges
import objectives
import reporters
import rules
import sources
import stages
import trainers
from pipeline import executors, plugin, recipe
from pipeline.plan import plan
from pipeline.profile import Profile, load
from pipeline.recipe import find, shipped

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "vllm", "ray", "deepspeed", "transformers", "datasets", "wandb", "tensorboard", "mlflow")
PLUGINS = [(folder, kind) for folder in plugin.FOLDERS for kind in plugin.names(folder)]

# Which of our own packages a package may import, beside itself.
ALLOWED = {
    "pipeline": set(),
    "metrics": set(),
    "models": {"pipeline"},
    "engines": {"pipeline", "models"},
    "judges": {"pipeline", "metrics", "models", "engines"},
    "objectives": {"pipeline"},
    "training": {"pipeline", "models", "objectives"},
    "trainers": {"pipeline", "models", "training"},
    "rules": {"pipeline", "metrics", "judges"},
    "sources": {"pipeline", "models"},
    "reporters": {"pipeline"},
    "stages": {"pipeline", "metrics", "models", "engines", "judges", "objectives", "training", "trainers", "rules", "sources"},
}


def _sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def _imports(path: Path, *, top_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def _modules() -> dict[str, Path]:
    """Every module of every room, by its dotted name."""
    found = {}
    for folder in ALLOWED:
        for path in _sources(folder):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _edges(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of ours that a file imports, anywhere in it: at the top, in functions, for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (full & modules.keys()) or {node.module}
    return found


def test_no_room_imports_a_private_module_of_another():
    for name, path in _modules().items():
        room = name.split(".")[0]
        foreign = [each for each in _edges(path, _modules()) if each.split(".")[0] in set(ALLOWED) - {room}]
        private = [each for each in foreign if any(part.startswith("_") for part in each.split("."))]
        assert not private, f"{path.relative_to(ROOT)} imports {private}"


def test_no_import_goes_in_a_circle():
    """Neither when it runs nor in types: a circle says that two modules are one, or that a third is missing."""
    modules = _modules()
    edges = {name: _edges(path, modules) & modules.keys() - {name} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above[above.index(name) :], name))
        if name not in done:
            for each in sorted(edges[name]):
                visit(each, (*above, name))
            done.add(name)

    for name in modules:
        visit(name, ())


def test_tests_mirror_the_rooms():
    """Every room has its tests beside its name, and no folder of tests is named after nothing."""
    other = {"runs", "real", "golden", "support"}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - other == set(ALLOWED)
    assert all(list((ROOT / "tests" / room).glob("test_*.py")) for room in ALLOWED)
    assert [path.name for path in (ROOT / "tests").glob("test_*.py")] == ["test_house.py"]


def test_few_modules_are_private():
    """What is worth a file is worth a name that others can import; what only the plugins of one room share is private to it."""
    private = [path for path in _modules().values() if path.name.startswith("_") and path.name != "__init__.py"]
    assert len(private) <= 26


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_point_one_way(folder):
    for path in _sources(folder):
        ours = _imports(path) & set(ALLOWED) - {folder}
        assert ours <= ALLOWED[folder], f"{path.relative_to(ROOT)} imports {ours - ALLOWED[folder]}"
        if folder == "pipeline":
            heavy = _imports(path) & set(HEAVY)
            in_ray = path.is_relative_to(ROOT / "pipeline/executors/ray")
            assert heavy <= ({"ray"} if in_ray else set()), f"{path.relative_to(ROOT)} imports {heavy}"


def test_planning_needs_no_heavy_library():
    """A fresh interpreter plans every shipped recipe, and imports every plugin, without torch, vllm, ray and the like."""
    code = (
        "import sys, pipeline.run\n"
        "from pipeline import plugin\n"
        "for folder in plugin.FOLDERS:\n"
        "    for kind in plugin.names(folder): plugin.load(folder, kind)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("folder, kind", PLUGINS, ids=[f"{folder}.{kind}" for folder, kind in PLUGINS])
def test_every_plugin_keeps_the_contract(folder, kind):
    module = plugin.load(folder, kind)
    assert isinstance(module.VERSION, int)
    assert module.__doc__ and len(module.__doc__.strip()) > 20
    config = module.Config
    assert issubclass(config, plugin.Settings)
    assert config.model_config["frozen"] and config.model_config["extra"] == "forbid"
    undocumented = [
        name
        for name, info in config.model_fields.items()
        if not info.description and not any(isinstance(m, plugin.Reads) for m in info.metadata)
    ]
    assert not undocumented, f"fields without a string under them: {undocumented}"


CONTRACTS = {
    "stages": stages.Stage,
    "judges": judges.Judge,
    "objectives": objectives.Objective,
    "engines": engines.EngineModule,
    "trainers": trainers.Trainer,
    "rules": rules.Rule,
    "sources": sources.Source,
    "reporters": reporters.Reporter,
    "pipeline.executors": executors.Executor,
}


@pytest.mark.parametrize("folder, kind", PLUGINS, ids=[f"{folder}.{kind}" for folder, kind in PLUGINS])
def test_every_plugin_has_what_its_protocol_says(folder, kind):
    module, contract = plugin.load(folder, kind), CONTRACTS[folder]
    members = {name for name in vars(contract) if not name.startswith("_")} | set(contract.__annotations__)
    assert {"VERSION", "Config", plugin.VERBS[folder]} <= members
    assert not [name for name in members if not hasattr(module, name)]
    for name, said in vars(contract).items():
        if inspect.isfunction(said) and not name.startswith("_"):
            asked = list(inspect.signature(said).parameters)[1:]
            assert list(inspect.signature(getattr(module, name)).parameters) == asked


@pytest.mark.parametrize("kind", plugin.names("objectives"))
def test_every_objective_cites_its_source(kind):
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", plugin.load("objectives", kind).__doc__ or "") or kind == "sft"


def test_every_recipe_plans_under_every_profile():
    for name in shipped("recipes"):
        for machine in shipped("profiles"):
            assert plan(recipe.load(find(name, "recipes")), load(find(machine, "profiles")))


def test_no_key_changes_by_accident():
    """A changed default must bump its plugin's VERSION; this golden file catches whoever forgets.

    If a change is meant, run with REMATCH_UPDATE_KEYS=1 and commit the file, saying why.
    """
    golden = ROOT / "tests/golden/keys.json"
    laptop = load(find("laptop", "profiles"))
    keys = {}
    for name in shipped("recipes"):
        for step in plan(recipe.load(find(name, "recipes")), laptop):
            keys[f"{name}/{step.address}"] = step.key[:16]
    defaults = {}
    for folder, kind in PLUGINS:
        if folder in ("stages", "judges", "objectives", "rules", "sources"):
            module = plugin.load(folder, kind)
            fields = {
                field: repr(info.get_default(call_default_factory=True))
                for field, info in plugin.fields(module.Config).items()
                if not info.is_required()
            }
            defaults[f"{folder}.{kind}@{module.VERSION}"] = fields
    now = {"keys": keys, "defaults": defaults}
    if os.environ.get("REMATCH_UPDATE_KEYS"):
        golden.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    assert json.loads(golden.read_text()) == now


def test_a_profile_override_reaches_its_node_and_no_other():
    base = load(find("laptop", "profiles"))
    changed = Profile.model_validate(
        {**_raw("laptop"), "overrides": {"judged": {"rows_per_shard": 7, "forward": {"tokens_per_batch": 99}}}}
    )
    assert changed.at("judged").rows_per_shard == 7 and changed.at("judged").forward.tokens_per_batch == 99
    assert changed.at("judged").engine == base.engine
    assert changed.at("pairs").rows_per_shard == base.rows_per_shard


def _raw(name: str) -> dict:
    return yaml.safe_load(find(name, "profiles").read_text())


def test_files_and_functions_stay_small():
    sizes = []
    for folder in ALLOWED:
        for path in _sources(folder):
            lines = len(path.read_text().splitlines())
            sizes.append(lines)
            assert lines <= 400, f"{path.relative_to(ROOT)} has {lines} lines"
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    length = (node.end_lineno or 0) - node.lineno + 1
                    assert length <= 80, f"{path.relative_to(ROOT)}: {node.name} has {length} lines"
    assert sorted(sizes)[len(sizes) // 2] < 120


def test_no_broad_except_but_at_the_step_boundary():
    for folder in ALLOWED:
        for path in _sources(folder):
            if path == ROOT / "pipeline/build.py":
                continue  # the step boundary: what libraries raise on a full disk has no common base
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ExceptHandler):
                    names = {node.type.id} if isinstance(node.type, ast.Name) else {None} if node.type is None else set()
                    assert not names & {"Exception", "BaseException", None}, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_the_changelog_names_every_plugin():
    """It listed 4 objectives and 7 recipes when there were 44 and 26."""
    text = (ROOT / "CHANGELOG.md").read_text()
    there = [*(kind for _, kind in PLUGINS), *shipped("recipes"), *shipped("profiles")]
    assert not [name for name in there if f"`{name}`" not in text]
