"""Classes found by name, module or entry point."""

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.errors import ConfigError, InvalidMetadata, UnknownName
from diaspora_stream.plugins import load_driver
from diaspora_stream.serializer import Serializer
from diaspora_stream.validator import DefaultValidator, Validator

HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def _plugin_example_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)


def test_a_class_is_the_attribute_of_a_module() -> None:
    validator = Validator.from_metadata(type="Limit:plugin_example", most=3)
    validator.validate(3)
    with pytest.raises(InvalidMetadata):
        validator.validate(4)


def test_the_description_of_a_plugin_makes_it_again() -> None:
    description = Validator.from_metadata(type="Limit:plugin_example", most=3).to_metadata()
    assert description == {"type": "Limit:plugin_example", "most": 3}
    with pytest.raises(InvalidMetadata):
        Validator.from_metadata(**description).validate(4)


@pytest.mark.parametrize(
    "component",
    [
        Validator.from_metadata(),
        Validator.from_metadata(type="schema", schema={"type": "object"}),
        Validator.from_metadata(type="eventbridge", schema={"a": [1]}),
        Serializer.from_metadata(type="raw"),
    ],
)
def test_a_component_is_pickled_as_its_description(component: Any) -> None:
    again = pickle.loads(pickle.dumps(component))
    assert type(again) is type(component)
    assert again.to_metadata() == component.to_metadata()


def test_a_plugin_is_pickled_as_its_description() -> None:
    validator = pickle.loads(pickle.dumps(Validator.from_metadata(type="Limit:plugin_example", most=3)))
    with pytest.raises(InvalidMetadata):
        validator.validate(4)


def test_a_class_may_have_another_name_than_its_attribute() -> None:
    serializer = Serializer.from_metadata(type="reverse-text:plugin_example")
    assert serializer.deserialize(serializer.serialize("abc")) == "abc"
    assert isinstance(Serializer.from_metadata(type="reverse-text"), type(serializer))


def test_the_module_of_a_known_name_is_ignored() -> None:
    assert isinstance(Validator.from_metadata(type="default:libnothing.so"), DefaultValidator)


def test_an_entry_point_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "limits-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: limits\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[diaspora_stream.validators]\nlimit = plugin_example:Limit\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(Validator.from_metadata(type="limit", most=1)).__name__ == "Limit"
    with pytest.raises(UnknownName, match="did you mean 'limit'"):
        Validator.from_metadata(type="limits")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("limi", "nothing is installed under the name 'limi'"),
        ("limt:plugin_example", "module 'plugin_example' has no 'limt'; did you mean 'Limit'"),
        ("Limit:no_such_module", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("not_a_class:plugin_example", "means 3, which is no subclass of Validator"),
        ("Reverse:plugin_example", "no subclass of Validator"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Validator.from_metadata(type=name)


def test_a_module_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plugin.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        Validator.from_metadata(type="x:broken_plugin")
    assert "broken_plugin" not in sys.modules


def test_an_unknown_driver_names_the_nearest() -> None:
    with pytest.raises(
        UnknownName, match="driver: nothing is installed under the name 'mofk'; did you mean 'mofka'"
    ):
        load_driver("mofk")
