"""S5: what users and strangers write in YAML and JSON is data, is bounded, and a fault is one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit.cli.recipe_values import recipe_values
from toolkit.errors import ConfigError, SpecError, ToolkitError
from toolkit.launcher import launch
from toolkit.planner.plan import Plan
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.reading import MAX_NODES, MAX_YAML_BYTES, parse_yaml, read_mapping
from toolkit.specs.recipe import Recipe

# Read and refused in a process that may map this much; measured: 60 MB, and 90 MB for the largest file.
LITTLE = 250 << 20
READ = """
import sys, time
from pathlib import Path
from toolkit.errors import SpecError
from toolkit.specs.recipe import Recipe
for path in sys.argv[1:]:
    began = time.process_time()
    try:
        Recipe.load(Path(path))
        print("read")
    except SpecError as error:
        print(error)
    assert time.process_time() - began < 15, path
"""
TAGS = [
    "!!python/object/apply:os.system ['touch {}']",
    "!!python/object/apply:subprocess.check_call [[touch, '{}']]",
    "!!python/object/new:os.system ['touch {}']",
    "!!python/name:os.system",
    "!!python/module:antigravity",
    "!!python/object:toolkit.errors.ToolkitError {{args: [1]}}",
    "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {}']",
    "!evil {}",
]


def laughs(levels: int, first: str, next_one: Callable[[int], str]) -> str:
    """Each line repeats the one before it ten times: 10^levels values in a kilobyte."""
    return f"a0: &a0 {first}\n" + "".join(f"a{n}: &a{n} {next_one(n)}\n" for n in range(1, levels))


def ten(n: int) -> str:
    return ", ".join([f"*a{n - 1}"] * 10)


ENDLESS = {
    "a list of lists": laughs(10, "[x, x]", lambda n: f"[{ten(n)}]"),
    "a mapping of mappings": laughs(
        10, "{x: x}", lambda n: "{" + ", ".join(f"k{i}: *a{n - 1}" for i in range(10)) + "}"
    ),
    "merged mappings": laughs(10, "{x: x}", lambda n: f"{{<<: [{ten(n)}], k{n}: x}}"),
    "keys": laughs(10, "[x, x]", lambda n: f"{{? [{ten(n)}] : x}}"),
    "itself in a list": "a: &a [1, *a]",
    "itself in a mapping": "a: &a {b: *a}",
    "brackets": "a: " + "[" * 200_000,
    "dashes": "- " * 100_000,
    "question marks": "? " * 100_000,
    "many values": "a: [" + "1," * 120_000 + "1]",
    "hours, minutes, ...": "a: 1" + ":00" * 80_000,
    "hours, minutes, ... of a second": "a: 1" + ":00" * 80_000 + ".5",
    "a long number": "a: " + "9" * 200_000,
    "a long hexadecimal number": "a: 0x" + "f" * 200_000,
    "100 MB": "a: b\n" * 20_000_000,
    "100 MB in one line": "a: " + "x" * 100_000_000,
    "a long tag": "a: !" + "x" * 200_000 + " 1",
}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("read", [read_mapping, Recipe.load, ClusterSpec.from_file, Plan.load])
def test_tags_make_no_objects(tmp_path: Path, tag: str, read: Callable[[Path], Any]) -> None:
    marker, path = tmp_path / "it-ran", tmp_path / "given.yaml"
    path.write_text(f"model: {tag.format(marker)}\n")
    with pytest.raises(ToolkitError, match=r"given\.yaml:1: not valid YAML \(could not determine a constructor"):
        read(path)
    with pytest.raises(SpecError, match="not valid YAML"):
        recipe_values(None, options={}, assignments=[f"model={tag.format(marker)}"])
    assert not marker.exists()


def test_small_files_stay_small(tmp_path: Path, in_little_memory: Callable[..., str]) -> None:
    paths = [tmp_path / f"{number}.yaml" for number in range(len(ENDLESS))]
    for path, text in zip(paths, ENDLESS.values(), strict=True):
        path.write_text(text)
    # A device has no size that could be asked for.
    said = in_little_memory(READ, *paths, "/dev/zero", max_bytes=LITTLE).splitlines()
    for name, path, line in zip([*ENDLESS, "a device"], [*paths, Path("/dev/zero")], said, strict=True):
        assert line.startswith(str(path)), name
        assert len(line) < 500 + len(str(path)), name


def test_ordinary_files_are_far_from_the_limits() -> None:
    catalogs = sorted((Path(toolkit.__file__).parent / "specs" / "catalog").glob("*.yaml"))
    assert catalogs
    for path in catalogs:  # the longest YAML files that there are
        assert path.stat().st_size < MAX_YAML_BYTES
        assert str(read_mapping(path)).count(",") < MAX_NODES


@pytest.mark.parametrize(
    ("value", "words"),
    [("[" * 100_000, "cannot read"), ("2001-99-99", "cannot read"), ("&a [*a]", "more than"), ("[", "not valid YAML")],
)
def test_values_on_the_command_line(value: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        recipe_values(None, options={}, assignments=[f"schedule.kind={value}"])


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Path:
    plan = toolkit.plan(model, "2xcpu", seq_len=32, global_batch=4)
    return toolkit.emit(plan, tmp_path / "run", toolkit.Recipe(model=str(model), workload=plan.workload))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"gradient_clipping": 1.0', '"gradient_clipping": NaN', "NaN is no number of JSON"),
        ('"gradient_clipping": 1.0', '"gradient_clipping": -Infinity', "-Infinity is no number of JSON"),
        ('"gradient_clipping": 1.0', '"gradient_clipping": 1e999', "1e999 is no number of JSON"),
        (
            '"gradient_clipping": 1.0',
            '"gradient_clipping": 1.0, "gradient_clipping": 9',
            "`gradient_clipping` is given",
        ),
        ('"gradient_clipping": 1.0', '"gradient_clipping": ' + "9" * 5000, "4300 digits"),
        ("{", '{"a": ' + "[" * 100_000, "recursion"),
        ("{", '{"a": "' + "x" * 17_000_000 + '",', "has more than 16,777,216 bytes"),
    ],
)
def test_plan_and_ds_config_are_strict_json(run: Path, old: str, new: str, words: str) -> None:
    edited(run / "plan.json", old, new)
    with pytest.raises(ConfigError, match="Make the plan again") as caught:
        launch(run)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(run / "plan.json"))
    ds = pytest.importorskip("toolkit.engines.ds.config", reason="the training half is not installed")
    edited(run / "ds_config.json", old, new)
    with pytest.raises(ConfigError) as caught:
        ds._content(run / "ds_config.json")
    assert words in str(caught.value)


def test_plans_are_read_as_json(run: Path) -> None:
    # YAML, which they were read as, takes ten times as long for a large one; it knows no tabs.
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan, indent="\t"))
    with pytest.raises(SpecError, match="not valid YAML"):
        parse_yaml((run / "plan.json").read_text(), source="plan")
    assert Plan.load(run / "plan.json").model_dump(mode="json") == plan
