"""Metadata as bytes, against the golden bytes of the format."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diaspora_stream.errors import ConfigError, InvalidMetadata, InvalidSchema
from diaspora_stream.serializer import DefaultSerializer, RawSerializer, SchemaSerializer, Serializer


@pytest.mark.parametrize("serializer", [DefaultSerializer(), SchemaSerializer(schema={})])
def test_bytes_are_the_golden_ones(serializer: Serializer) -> None:
    golden = bytes.fromhex("0700000000000000 7b2278223a317d")
    assert serializer.serialize({"x": 1}) == golden
    for buffer in (golden, bytearray(golden), memoryview(golden)):
        assert serializer.deserialize(buffer) == {"x": 1}


@given(
    st.recursive(
        st.none() | st.integers(-9, 9) | st.text("aé\n"),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=6,
    )
)
def test_metadata_comes_back(value: Any) -> None:
    serializer = DefaultSerializer()
    assert serializer.deserialize(serializer.serialize(value)) == value


@pytest.mark.parametrize("cut", [0, 3, 8, 14])
def test_bytes_that_end_early_are_refused(cut: int) -> None:
    whole = DefaultSerializer().serialize({"x": 1})
    with pytest.raises(InvalidMetadata, match=f"serialized metadata of {cut} bytes"):
        DefaultSerializer().deserialize(whole[:cut])


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidMetadata, match="not valid JSON"):
        DefaultSerializer().deserialize((3).to_bytes(8, "little") + b"abc")


def test_descriptions_make_the_same_again() -> None:
    assert isinstance(Serializer.from_metadata(), DefaultSerializer)
    assert DefaultSerializer().to_metadata() == {"type": "default"}
    schema = Serializer.from_metadata(type="schema", schema={"type": "object"}, extra=1)
    assert schema.to_metadata() == {"type": "schema", "schema": {"type": "object"}}


def test_a_schema_serializer_needs_a_schema() -> None:
    with pytest.raises(ConfigError, match=r"serializer\.schema: missing"):
        Serializer.from_metadata(type="schema")
    with pytest.raises(InvalidSchema, match=r"serializer\.schema"):
        Serializer.from_metadata(type="schema", schema="text")


def test_raw_keeps_text_as_it_was_given() -> None:
    raw = Serializer.from_metadata(type="raw")
    assert isinstance(raw, RawSerializer)
    assert raw.to_metadata() == {"type": "raw"}
    text = b' {"z": 1,\t"a": 2.50} '
    assert raw.serialize_text(text, {"z": 1, "a": 2.5}) == text
    assert raw.deserialize(memoryview(text)) == {"z": 1, "a": 2.5}
    assert raw.serialize({"z": 1, "a": [2]}) == b'{"a":[2],"z":1}'
    with pytest.raises(InvalidMetadata, match="not valid JSON"):
        raw.deserialize(b"{")
    assert DefaultSerializer().serialize_text(text, {"a": 1}) == DefaultSerializer().serialize({"a": 1})
