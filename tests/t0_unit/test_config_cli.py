"""``swmld config``, ``validate`` and ``test-rules``: what is printed, and the exit code."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.traces import Table, batch
from swmld import documents
from swmld.cli import config_tree
from swmld.cli.main import run
from swmld.config.load import load
from swmld.config.models import Settings
from swmld.head.rulesfiles import read
from swmld.observe.encoding import Encoder
from swmld.observe.libraries import Program
from swmld.observe.recording import Writer

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]
JPEG = b"\xff\xd8\xff\xe0" + bytes(1000)
RULES = """\
rules:
  - id: images
    conditions: [extension == '.jpg', size <= 1MiB]
    actions: [{type: prefetch, parameters: {next_files: 8}}]
  - id: shuffled
    conditions: [order == shuffled, epoch >= 1]
    actions: [{type: cache, parameters: {strategy: no_evict}}]
  - id: tables
    conditions: [format == parquet]
    actions: [{type: cache, parameters: {pin: true}}]
"""


@pytest.fixture
def swmld(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def put(name: str, text: str | bytes = RULES) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


# ---- config show


def test_show_says_where_each_value_stands(swmld: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWMLD_FETCH_PARALLEL", "5")
    put("c/default/a.yaml", "cache_size: 2GiB\n" + RULES)
    put("c/custom/a.yaml", "rules:\n  - id: images\n    priority: 7\n")
    code, out, err = swmld(
        "--chunk-size", "1MiB", "config", "show", "--config", "c", "--origin", "--mount", "/m"
    )
    assert (code, err) == (0, "")
    here = f"# {Path.cwd()}/c/"
    said = dict(
        re.split(r"  +(?=# )", line.strip(), maxsplit=1) for line in out.splitlines() if "  #" in line
    )
    assert said["mount: /m"] == "# command line --mount"
    assert said["chunk_size: 1MiB"] == "# command line --chunk-size"
    assert said["fetch_parallel: 5"] == "# environment variable SWMLD_FETCH_PARALLEL"
    assert said["cache_size: 2GiB"] == here + "default/a.yaml:1"
    assert said["free_floor: auto"] == "# default"
    assert said["priority: 7"] == here + "custom/a.yaml:3"
    assert said["next_files: 8"] == here + "default/a.yaml:5"
    assert f"# note: images of {Path.cwd()}/c/default/a.yaml:3 is changed by" in out


def test_show_can_be_given_to_config(swmld: Run) -> None:
    paths = "paths: [{glob: 'a b/*', check: strict, interval: 250ms}]\n"
    path = put("plain.yaml", "cache_size: 5000001\nfetch_timeout: 100.001\n" + paths)
    _, out, _ = swmld("config", "show", "--config", path, "--mount", "/m")
    assert load(Path(put("shown.yaml", out)), {}) == load(Path(path), {"mount": "/m"})
    path = put("c.yaml", (ROOT / "configs/rules/vision.yaml").read_text())
    _, out, _ = swmld("config", "show", "--config", path)
    again = put("again.yaml", out)
    first, second = (
        [
            (rule.id, rule.priority, rule.actions, [str(node) for _, node in rule.conditions])
            for rule in read([Path(each)]).rules
        ]
        for each in (path, again)
    )
    assert len(first) > 5
    assert first == second


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
TREES = st.recursive(
    TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(("name", "conditions", "parameters")), TREES, min_size=1))
def test_what_is_written_reads_the_same(raw: dict[str, Any]) -> None:
    one = config_tree.Definition("rules", "r", {"id": "r", **raw}, lambda at: "F:1")
    tree = config_tree.Tree([(key, [], "") for key in Settings.model_fields], [one])
    for origin in (False, True):
        text = "\n".join(line.text for line in tree.lines(origin=origin))
        assert documents.parse("F", text.encode(), max_depth=30).values["rules"] == [{"id": "r", **raw}]


def test_show_as_json(swmld: Run) -> None:
    put("c.yaml", "cache_size: 2GiB\n" + RULES)
    code, out, _ = swmld("config", "show", "--config", "c.yaml", "--json", "--origin")
    found = json.loads(out)
    assert code == 0
    assert found["daemon"]["cache_size"] == {"value": "2GiB", "origin": f"{Path.cwd()}/c.yaml:1"}
    assert [rule["name"] for rule in found["rules"]] == ["images", "shuffled", "tables"]
    assert found["rules"][0]["origins"]["actions.0.parameters.next_files"] == f"{Path.cwd()}/c.yaml:5"
    assert json.loads(swmld("config", "show", "--json")[1])["daemon"]["mount"] is None


def test_show_has_the_built_in_rules_that_are_named(swmld: Run) -> None:
    put("c.yaml", "templates: [{id: t, rules: [adaptive_caching]}]\n")
    _, out, _ = swmld("config", "show", "--config", "c.yaml", "--origin")
    assert re.search(r"- id: adaptive_caching +# builtin/cache.yaml:\d+", out)
    assert "experiment_tracking" not in out


def test_show_tells_every_error(swmld: Run) -> None:
    put("c.yaml", "cache_size: lots\nchunk_size: 3MiB\n")
    code, out, err = swmld("config", "show", "--config", "c.yaml")
    assert (code, out) == (2, "")
    here = f"swmld: {Path.cwd()}/c.yaml"
    said = [line.split(": expected")[0] for line in err.splitlines()]
    assert said == [f"{here}:1:13: cache_size", f"{here}:2:13: chunk_size"]


# ---- config init


def test_init_writes_a_layout_that_is_sound_and_changes_nothing(swmld: Run) -> None:
    code, out, err = swmld("config", "init", "c", "--recipe", "vision", "--recipe", "nlp")
    assert (code, err) == (0, "")
    written = sorted(str(path) for path in Path("c").rglob("*.yaml"))
    assert written == sorted(line for line in out.splitlines() if line.startswith("c/"))
    assert {"c/default/everyday.yaml", "c/default/vision.yaml", "c/default/nlp.yaml"} <= set(written)
    assert {path.split("/")[1] for path in written} == {"default", "frameworks", "environments", "custom"}
    code, out, err = swmld("validate", "c")
    assert (code, err) == (0, "")
    assert "note:" not in out
    _, shown, _ = swmld("config", "show", "--config", "c", "--origin")
    assert [
        line for line in shown.splitlines() if "/c/" in line and line.startswith(tuple(Settings.model_fields))
    ] == []
    assert swmld("config", "show", "--config", "c", "--environment", "production")[0] == 0


def test_init_overwrites_nothing(swmld: Run) -> None:
    put("c/custom/mine.yaml", "mine\n")
    (Path("c") / "environments").mkdir()
    os.symlink("/nowhere", "c/environments/production.yaml")
    code, out, err = swmld("config", "init", "c")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "swmld: c/custom/mine.yaml exists already; nothing was written",
        "swmld: c/environments/production.yaml exists already; nothing was written",
    ]
    assert sorted(map(str, Path("c").rglob("*.yaml"))) == [
        "c/custom/mine.yaml",
        "c/environments/production.yaml",
    ]
    assert swmld("config", "init", "d", "--recipe", "visoin") == (
        2, "", "swmld: unknown recipe 'visoin'; did you mean vision?\n")  # fmt: skip
    put("file", "")
    code, _, err = swmld("config", "init", "file/d")
    assert (code, err) == (1, "swmld: file/d/default: Not a directory; nothing was written\n")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/layout").rglob("*.yaml")), ids=lambda path: path.stem
)
def test_what_is_commented_out_is_sound(path: Path, swmld: Run) -> None:
    """Lines that begin with # and no single space are the examples."""
    lines = path.read_text().splitlines()
    assert all(line.startswith("#") or not line for line in lines)
    text = "\n".join(line[1:] for line in lines if re.match(r"#(?! \S)", line))
    assert text
    base = put("c/default/everyday.yaml", (ROOT / "configs/rules/everyday.yaml").read_text())
    put(f"c/{path.parent.name}/{path.name}", text)
    code, _, err = swmld("validate", "c")
    assert (code, err) == (0, ""), base


def test_every_recipe_that_ships_is_offered(swmld: Run) -> None:
    _, out, _ = swmld("config", "init", "--help")
    shown = " ".join(re.sub(r"[│\n]", " ", out).split())
    for path in (ROOT / "configs/rules").glob("*.yaml"):
        assert path.stem in shown
        assert swmld("config", "init", f"at-{path.stem}", "--recipe", path.stem)[0] == 0


# ---- validate


def test_validate_reads_settings_and_rules(swmld: Run) -> None:
    put("c/default/a.yaml", RULES)
    put("c/custom/a.yaml", "cache_size: 1GiB\n")
    code, out, err = swmld("validate", "c")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "daemon: cache_size 1GiB (c/custom/a.yaml:1)"
    assert swmld("rules", "check", "c") == (code, out, err)
    found = json.loads(swmld("validate", "c", "--json")[1])
    assert (found["problems"], [rule["id"] for rule in found["rules"]]) == (
        [],
        ["images", "shuffled", "tables"],
    )
    assert found["daemon"] == [{"key": "cache_size", "value": "1GiB", "where": "c/custom/a.yaml:1"}]


def test_validate_tells_everything_at_once(swmld: Run) -> None:
    put(
        "c/default/a.yaml",
        "cache_size: lots\nrules: [{id: r, prioritty: 1, conditions: [], actions: [{type: cash}]}]\n",
    )
    put("c/environments/e.yaml", "settings: {debugg: 1}\n")
    code, out, err = swmld("validate", "c", "gone.yaml")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "swmld: gone.yaml: No such file or directory",
        "swmld: c/default/a.yaml:1:13: cache_size: expected a size such as 4MiB (at least 64KiB), got 'lots'",
        "swmld: c/default/a.yaml:2:17: prioritty: unknown key; did you mean priority?",
        "swmld: c/default/a.yaml:2:64: type: unknown action 'cash'; did you mean cache?",
        "swmld: c/environments/e.yaml:1:12: debugg: unknown setting; did you mean debug?",
    ]
    code, out, _ = swmld("validate", "c", "--json")
    assert code == 2
    assert json.loads(out)["problems"][0] == {
        "file": "c/default/a.yaml", "line": 1, "column": 13, "key": "cache_size",
        "text": "expected a size such as 4MiB (at least 64KiB), got 'lots'",
    }  # fmt: skip


# ---- test-rules


@pytest.fixture
def tree(swmld: Run) -> str:
    put("r.yaml")
    put("ml/train/0.jpg", JPEG)
    put("ml/train/1.jpg", JPEG)
    put("ml/columns", b"PAR1" + bytes(100))
    return "ml"


def test_rules_are_tried_on_real_files(swmld: Run, tree: str) -> None:
    code, out, err = swmld("test-rules", "r.yaml", tree)
    assert (code, err) == (0, "")
    assert out == (
        "FILE         TYPE     FORMAT   SIZE  RULES   DECIDED\n"
        "columns      dataset  parquet  104B  tables  cache pin true\n"
        "train/0.jpg  dataset  jpeg    1004B  images  prefetch next_files 8\n"
        "train/1.jpg  dataset  jpeg    1004B  images  prefetch next_files 8\n"
        "\n"
        "3 of 3 files are matched by a rule\n"
        "matched: images (2), tables (1)\n"
        "not matched: shuffled (r.yaml:6); not known: epoch, order\n"
    ) or out.splitlines()[1].split() == [
        "columns",
        "dataset",
        "parquet",
        "104B",
        "tables",
        "cache",
        "pin",
        "true",
    ]


def test_a_recording_says_how_they_are_read(swmld: Run, tree: str) -> None:
    table = Table()
    table.start(7, 7)
    order = [5, 2, 9, 0, 7, 3, 11, 8, 1, 10, 4, 6, 13, 12, 15, 14]
    for number in range(16):
        table.add(100 + number, f"{number}.jpg", 102400, index=number)
    program = Program(frozenset({"torch"}), ("pytorch",))
    encoder = Encoder(table, table, lambda process: program)
    with Writer(Path("run.trace"), mount=str(Path.cwd() / tree)) as writer:
        for line in encoder.lines(batch(1.0, [(7, 100 + number) for number in order], 0.1)):
            writer.write(line)
    code, out, err = swmld(
        "test-rules", "r.yaml", f"{tree}/train/0.jpg", f"{tree}/columns", "--trace", "run.trace", "--json"
    )
    assert (code, err) == (0, "")
    image, columns = json.loads(out)["files"]
    assert (image["recorded"], columns["recorded"]) == (True, False)
    assert image["facts"]["path"] == "train/0.jpg"
    assert image["facts"]["size"] == 1004, "the file as it is, not as it was"
    assert (image["facts"]["pattern"], image["facts"]["comm"], image["facts"]["reads"]) == (
        "whole-file",
        "python",
        1,
    )
    assert (image["facts"]["framework"], image["facts"]["libraries"]) == ("pytorch", ["torch"])
    assert not {"comm", "framework"} & set(columns["facts"])
    assert set(image["rules"]) == {"shuffled", "images"}
    given = {"strategy": {"value": "no_evict", "rule": "shuffled"}}
    assert {"action": "cache", "target": "file", "parameters": given} in image["decided"]
    _, out, _ = swmld("test-rules", "r.yaml", f"{tree}/columns", "--trace", "run.trace")
    assert "none of these files is read in run.trace" in out


def test_facts_can_be_assumed_and_reasons_asked_for(swmld: Run, tree: str) -> None:
    put("f.yaml", "order: shuffled\nepoch: 2\n")
    code, out, _ = swmld("test-rules", "r.yaml", f"{tree}/train/0.jpg", "--facts", "f.yaml", "--why")
    assert code == 0
    assert "ml/train/0.jpg\n" in out
    assert "50% true: epoch greater_equal 1 (it is 2)" in out
    assert "strategy = no_evict, by shuffled" in out


HOSTED = """
rules:
  - {id: busy, conditions: [free_memory > 1MiB, cpu_count >= 1, cpu <= 100%], actions: [{type: cache}]}
  - {id: gpu, conditions: [gpu_memory > 80], actions: [{type: exclude}]}
  - {id: night, conditions: [time_of_day >= '23:00'], actions: [{type: cache, parameters: {pin: true}}]}
  - {id: torch, conditions: [libraries CONTAINS torch, phase == 'model load'], actions: [{type: cache}]}
"""


def test_the_host_is_known_as_it_is_and_can_be_assumed_otherwise(swmld: Run, tree: str) -> None:
    put("r.yaml", HOSTED)
    put("f.yaml", "gpu_memory: 10%\ntime_of_day: '23:30'\n")

    def tried(*arguments: str) -> dict[str, Any]:
        code, out, err = swmld("test-rules", "r.yaml", f"{tree}/columns", "--json", *arguments)
        assert (code, err) == (0, "")
        (file,) = json.loads(out)["files"]
        return dict(file, notes=json.loads(out)["notes"])

    found = tried("--fact", "gpu_memory=90%", "--fact", "time_of_day=22:00")
    assert found["rules"] == ["busy", "gpu"]
    assert {"free_memory", "cpu_count", "cpu"} <= set(found["facts"])
    assert "disk_free" not in found["facts"], "no rule asks for it"
    (note,) = found["notes"]
    assert note.startswith("this host has now: cpu ")
    assert "gpu_memory" not in note
    assert tried("--facts", "f.yaml")["rules"] == ["busy", "night"]
    assert tried("--facts", "f.yaml", "--fact", "gpu_memory=81%")["rules"] == ["busy", "gpu", "night"]
    found = tried("--fact", "libraries=numpy, torch", "--fact", "phase=model_load", "--fact", "cpu_count=0")
    assert {"torch"} == set(found["rules"]) - {"gpu", "night"}
    assert found["facts"]["libraries"] == ["numpy", "torch"]


def test_a_fact_that_is_none_is_told(swmld: Run, tree: str) -> None:
    words = ("gpu_memory", "cpu=90", "cpu=80", "=1")
    code, out, err = swmld("test-rules", "r.yaml", tree, *(f"--fact={word}" for word in words))
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "swmld: --fact: expected NAME=VALUE, got 'gpu_memory'",
        "swmld: --fact: cpu: given twice",
        "swmld: --fact: expected NAME=VALUE, got '=1'",
    ]
    code, out, err = swmld("test-rules", "r.yaml", tree, "--fact=gpu_memry=1", "--fact=size=big")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "swmld: --fact: gpu_memry: unknown property 'gpu_memry'; did you mean gpu_memory?",
        "swmld: --fact: size: expected a size such as 512KiB, 64MiB or 1GB, got 'big'",
    ]


PLUGIN = """
from swmld.plugins.interface import NONE

class Blobs:
    api = 1
    libraries = ()
    extensions = (".blob",)
    def framework_name(self): return "blobs"
    def detect(self, path, head): return 0.9 if head.startswith(b"BLOBS") else 0.0
    def hints(self, context): return NONE
    def default_rules(self):
        return "- {id: keep_blobs, conditions: [size > 0], actions: [{type: cache, parameters: {pin: true}}]}"
    def default_templates(self): return ""
"""


def test_plugins_say_whose_framework_s_a_file_is(swmld: Run) -> None:
    put("plugs/blobs.py", PLUGIN)
    put("r.yaml", "frameworks: {blobs: {rules: [keep_blobs]}, pytorch: {rules: [large_model_streaming]}}\n")
    put("d/a.blob", b"BLOBS" + bytes(10))
    put("d/b.blob", b"none" + bytes(10))
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    put("d/c.safetensors", len(header).to_bytes(8, "little") + header + bytes(4))

    def known(*arguments: str) -> dict[str, Any]:
        code, out, err = swmld("test-rules", *arguments, "--json")
        assert (code, err) == (0, "")
        return {Path(each["path"]).name: each for each in json.loads(out)["files"]}

    for arguments in (
        ("r.yaml", "d", "--plugins", "plugs"),
        (put("own.yaml", "plugins: plugs\n" + Path("r.yaml").read_text()), "d"),
    ):
        found = known(*arguments)
        assert {name: each["rules"] for name, each in found.items()} == {
            "a.blob": ["keep_blobs (framework blobs)"], "b.blob": [], "c.safetensors": [],
        }  # fmt: skip
        assert found["c.safetensors"]["facts"]["file_framework"] == "pytorch"
    for command in (("validate",), ("rules", "check")):
        code, out, err = swmld(*command, "r.yaml", "--plugins", "plugs")
        assert (code, err) == (0, "")
        assert "keep_blobs" in out
        assert "note" not in out
    assert "keep_blobs" in swmld("config", "show", "--rules", "r.yaml", "--plugins", "plugs")[1]
    put("f.yaml", "file_framework: blobs\nsize: 3\n")
    code, out, _ = swmld("rules", "match", "r.yaml", "--facts", "f.yaml", "--plugins", "plugs")
    assert code == 0
    assert "pin = true, by keep_blobs (framework blobs)" in out


def test_why_a_name_of_a_plugin_is_unknown_is_told(swmld: Run) -> None:
    put("plugs/blobs.py", PLUGIN + "raise ValueError('broken')\n")
    put("r.yaml", "frameworks: {blobs: {rules: [keep_blobs]}}\n")
    code, out, err = swmld("validate", "r.yaml", "--plugins", "plugs")
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith("swmld: a plugin is not used: plugs/blobs.py: raised ValueError: broken")
    assert second.startswith("swmld: r.yaml:1:30: rules: unknown rule 'keep_blobs'")


def test_a_framework_that_no_plugin_knows_is_noted(swmld: Run) -> None:
    exclude = "actions: [{type: exclude}]"
    named = "pytorc: {rules: [large_model_streaming]}, numpy: {rules: [adaptive_caching]}"
    put("r.yaml", f"frameworks: {{{named}}}\n"
                  f"rules: [{{id: a, conditions: ['framework IN [jax, tensorflo]'], {exclude}}},"
                  f" {{id: b, conditions: [file_framework != 'x'], {exclude}}}]\n")  # fmt: skip
    code, out, _ = swmld("validate", "r.yaml")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("note")] == [
        "note: large_model_streaming (framework pytorc) (builtin/training.yaml:2): "
        "no plugin knows the framework pytorc; did you mean pytorch?",
        "note: a (r.yaml:2): no plugin knows the framework tensorflo; did you mean tensorflow?",
    ]


def test_an_environment_is_known_to_the_rules(swmld: Run, tree: str) -> None:
    rule = "{id: r, conditions: [environment == 'e'], actions: [{type: exclude}]}"
    put("r.yaml", f"environments: {{e: {{rules: [r]}}}}\nrules: [{rule}]\n")
    files = json.loads(swmld("test-rules", "r.yaml", tree, "--environment", "e", "--json")[1])["files"]
    assert {tuple(each["rules"]) for each in files} == {("r (environment e)",)}


def test_everything_that_cannot_be_tried_is_told(swmld: Run, tree: str) -> None:
    os.mkfifo("pipe")
    code, out, err = swmld("test-rules", "r.yaml", "gone", "pipe", tree)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"swmld: {Path.cwd()}/gone: No such file or directory",
        f"swmld: {Path.cwd()}/pipe: expected a file or a directory",
    ]
    put("bad.yaml", "order: sideways\n")
    put("r.yaml", "rulez: []\n")
    code, _, err = swmld("test-rules", "r.yaml", tree, "--facts", "bad.yaml")
    assert (code, len(err.splitlines())) == (2, 2)


# ---- the README

README = (ROOT / "README.md").read_text()
SECTION = README[README.index("## Configuration\n") : README.index("## Metrics\n")]
BLOCKS = ["\n".join(line[4:] for line in block.splitlines())
          for block in re.findall(r"(?:^(?:    .*)?\n)+", SECTION, re.M) if block.strip()]  # fmt: skip


def shown(command: str) -> str:
    """What the README prints below a command."""
    (block,) = [block for block in BLOCKS if block.lstrip("\n").startswith(f"# {command}")]
    return block.strip("\n").split("\n", 1)[1] + "\n"


def test_what_the_readme_shows_is_what_is_printed(swmld: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (mine,) = [block.strip("\n") for block in BLOCKS if block.strip("\n").startswith("cache_size:")]
    here = str(Path.cwd())

    def told(*arguments: str) -> str:
        _, out, err = swmld(*arguments)
        return (out + err).replace(here, "").replace("etc/swmld", "/etc/swmld").replace("//etc", "/etc")

    assert told("config", "init", "etc/swmld", "--recipe", "vision") == shown("swmld config init")
    Path("etc/swmld/custom/mine.yaml").write_text(mine)
    lines = told("config", "show", "--config", "etc/swmld", "--origin").splitlines(keepends=True)
    wanted = ("chunk_size", "cache_size", "priority: 7", "not in use")
    assert "".join(line for line in lines if any(word in line for word in wanted)) == shown(
        "swmld config show"
    )
    put("data/instances.json", "{" + " " * 99_998 + "}")
    put("data/train/0.jpg", JPEG)
    put("data/train/events.tmp", "12345")
    assert told("test-rules", "etc/swmld", "data") == shown("swmld test-rules")
    Path("etc/swmld/custom/mine.yaml").write_text(mine.replace("priority", "prioritty"))
    assert told("validate", "etc/swmld") == shown("swmld validate")
