"""One artifact opened: what was asked, what came out, how it came about, and its rows."""

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pipeline import artifact, rows
from pipeline.errors import Refusal
from pipeline.plan import plan
from pipeline.request import Asked
from pipeline.views import facts, sample, screen


def collect(
    asked: Asked, address: str, *, count: int = 3, at: str | None = None, best: int | None = None, worst: int | None = None
) -> dict[str, Any]:
    """The manifest of one artifact and some of its rows, as plain data."""
    path = asked.folder / address
    made = artifact.read(path)
    if made is None:
        raise Refusal(f"{path}: is not there yet; `rematch run {asked.folder}` builds what is missing")
    table = made.manifest.makes if rows.files(path) else None
    step = next(step for step in plan(asked.recipe, asked.profile) if step.address == address)
    chosen = sample.pick(path, table, count=count, at=at, best=best, worst=worst) if table else []
    inputs = {slot: list(addresses) for slot, addresses in step.inputs.items()}
    return {"address": address, "table": table, "inputs": inputs, "manifest": made.manifest.model_dump(mode="json"), "rows": chosen}


def render(data: dict[str, Any], asked: Asked, *, whole: bool = False) -> RenderableType:
    """An artifact as a page; `whole` lists every file and every version."""
    manifest = data["manifest"]
    identity, provenance = manifest["identity"], manifest["provenance"]
    parts: list[RenderableType] = [
        screen.heading(f"{asked.folder}/{data['address']}", f"{identity.get('stage')} version {identity.get('version')}"),
        Text(),
        _section("asked", {**dict(facts.leaves(identity.get("settings", {}))), "seed": identity.get("seed")}),
        *([_section("gates", dict(facts.leaves(provenance["gates"])))] if "gates" in provenance else []),
        _section("read", {slot: _read(digests, data["inputs"].get(slot, [])) for slot, digests in manifest["inputs"].items() if digests}),
        *([_section("leans on", {a: digest[:12] for a, digest in manifest["leans_on"].items()})] if manifest["leans_on"] else []),
        _section("facts", dict(facts.leaves(manifest["facts"]))),
        _section("ran", _ran({name: value for name, value in provenance.items() if name != "gates"}, whole)),
        _section("left", _files(manifest, whole)),
    ]
    if data["rows"]:
        parts += [sample.render(data["table"], data["rows"]), _more(data)]
    return Group(*parts)


def _read(digests: list[str], addresses: list[str]) -> str:
    """What one slot read: addresses as the recipe now says, digests as they were."""
    names = addresses if len(addresses) == len(digests) else [""] * len(digests)
    return ", ".join(f"{name} {digest[:12]}".strip() for name, digest in zip(names, digests, strict=True))


def _section(title: str, body: dict[str, Any]) -> RenderableType:
    if not body:
        return Text(f"{title}: nothing\n", style="dim")
    rows = [[name, Text(_value(name, value))] for name, value in body.items()]
    return Group(screen.table([(title, "left"), ("", "wrap")], rows), Text())


def _value(name: str, value: Any) -> str:
    if name == "seconds":
        return screen.seconds(value)
    return facts.rate(name.rpartition(".")[2], value) if isinstance(value, int | float) else screen.shorten(value, 300)


def _ran(provenance: dict[str, Any], whole: bool) -> dict[str, Any]:
    body = dict(facts.leaves(provenance)) if whole else {k: v for k, v in provenance.items() if not isinstance(v, dict)}
    for name, value in provenance.items():
        if isinstance(value, dict) and not whole:
            body[name] = ", ".join(f"{k} {v}" for k, v in value.items() if not isinstance(v, dict | list) and v is not None)
    return body


def _files(manifest: dict[str, Any], whole: bool) -> dict[str, Any]:
    files = manifest["files"]
    total = screen.size(sum(each["bytes"] for each in files))
    count = f"{len(files)} ({total})" + (", dropped: nothing was left to read them" if manifest["dropped"] else "")
    body: dict[str, Any] = {"digest": manifest["digest"][:16], "files": count}
    shown = files if whole else files[:8]
    body |= {each["path"]: screen.size(each["bytes"]) for each in shown}
    return body | ({"...": f"{len(files) - len(shown)} more (--all lists them)"} if len(files) > len(shown) else {})


def _more(data: dict[str, Any]) -> Text:
    total = data["manifest"]["facts"].get("rows")
    return Text(f"{len(data['rows'])} of {screen.number(total)} rows; --rows N, --id ID, --best N or --worst N choose others", style="dim")
