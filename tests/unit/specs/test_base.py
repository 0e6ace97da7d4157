"""Spec: all faults of an input at once, each with its place, and files that cannot be read."""

from pathlib import Path
from typing import Annotated

import pydantic
import pytest
from pydantic import Field

from toolkit.errors import SpecError
from toolkit.specs.base import Spec, read_mapping


class Wheel(Spec):
    radius: float = Field(gt=0)
    """Radius in metres."""
    spokes: int = 32
    """Number of spokes."""


class Bike(Spec):
    name: str
    front: Wheel
    rear: Wheel | None = None
    spare: tuple[Wheel, ...] = ()
    tuned: Annotated[Wheel, Field()] | None = None
    gears: list[int] = Field(default_factory=list)


def faults(given: dict[str, object]) -> list[str]:
    with pytest.raises(SpecError) as caught:
        Bike.parse(given, source="bike.yaml")
    return str(caught.value).splitlines()


GOOD: dict[str, object] = {"name": "b", "front": {"radius": 0.3}}


def test_a_good_mapping_is_frozen() -> None:
    bike = Bike.parse(GOOD, source="bike.yaml")
    assert bike.front.spokes == 32
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        bike.name = "c"


def test_docstrings_are_the_help() -> None:
    assert Wheel.model_fields["radius"].description == "Radius in metres."


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"nam": 1}, "unknown key `nam`; did you mean `name`?"),
        ({"front": {"radius": 1, "spoke": 3}}, "unknown key `front.spoke`; did you mean `spokes`?"),
        ({"rear": {"radius": 1, "raduis": 3}}, "unknown key `rear.raduis`; did you mean `radius`?"),
        ({"spare": [{"radius": 1}, {"radius": 1, "spoks": 3}]}, "unknown key `spare.1.spoks`; did you mean `spokes`?"),
        ({"tuned": {"radius": 1, "radios": 3}}, "unknown key `tuned.radios`; did you mean `radius`?"),
        ({"front": {"radius": 1, "qqqq": 3}}, "unknown key `front.qqqq`; known here: radius, spokes"),
        ({"front": {"radius": 0}}, "`front.radius` is 0: input should be greater than 0"),
        ({"front": {"radius": float("nan")}}, "`front.radius` is nan: input should be a finite number"),
        (
            {"gears": [1, "x"]},
            "`gears.1` is 'x': input should be a valid integer, unable to parse string as an integer",
        ),
        ({"name": None}, "`name` is None: input should be a valid string"),
    ],
)
def test_a_fault_has_its_place_and_a_remedy(changes: dict[str, object], line: str) -> None:
    assert faults({**GOOD, **changes}) == [f"bike.yaml: {line}"]


def test_all_faults_come_at_once() -> None:
    lines = faults({"nme": "b", "front": {"radus": 1, "spokes": "many"}, "rear": {}})
    assert len(lines) == 6
    assert all(line.startswith("bike.yaml: ") for line in lines)
    for words in (
        "key `name` is missing",
        "`nme`; did you mean `name`",
        "key `front.radius` is missing",
        "`front.spokes`",
    ):
        assert any(words in line for line in lines), words


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: b\nfront: {radius: 1\n", ":3: not valid YAML"),
        ("name: b\n\tfront: 1\n", ":2: not valid YAML"),
        ("name: b\nfront:\n  radius: 1\nname: c\n", ":4: not valid YAML (key `name` is given twice)"),
        ("front: {radius: 1, spokes: 2, radius: 3}\n", ":1: not valid YAML (key `radius` is given twice)"),
        ("name: !!python/object/apply:os.getcwd []\n", ":1: not valid YAML"),
        ("name: \x07\n", ": not valid YAML"),
        ("name: 2001-99-99\n", "cannot read (month must be in 1..12); put it in quotes"),
        ("name: " + "[" * 5000, "cannot read"),
        ("- name\n", "holds list, needs `key: value` lines"),
        ("", "holds NoneType, needs `key: value` lines"),
    ],
)
def test_unreadable_files_name_the_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "bike.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        Bike.load(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        Bike.load(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        Bike.load(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(SpecError, match="not UTF-8"):
        Bike.load(tmp_path / "b.yaml")


def test_json_and_yaml_features_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text('{"name": "b", "front": {"radius": 3e-1}}', encoding="utf-8")
    assert Bike.load(str(path)).front.radius == 0.3
    path.write_text("base: &w {radius: 1, spokes: 8}\nfront: {<<: *w, spokes: 9}\n", encoding="utf-8")
    assert read_mapping(path)["front"] == {"radius": 1, "spokes": 9}
