"""Backends against an oracle: any sequence of verbs leaves them as it leaves a dict."""

import tempfile
import unittest.mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mochi.yokan.config import open_database
from mochi.yokan.embedded import EmbeddedDatabase
from mochi.yokan.errors import InvalidArguments, KeyExists, KeyNotFound, YokanError
from mochi.yokan.mode import Mode

keys = st.text(alphabet="\0ab\x7f", min_size=1, max_size=3).map(str.encode)
values = st.binary(max_size=4)
pairs = st.lists(st.tuples(keys, values), max_size=4)


class MapOracle(RuleBasedStateMachine):
    """Verbs on a ``map`` and on a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.database = self.open()
        self.oracle: dict[bytes, bytes] = {}

    def open(self) -> EmbeddedDatabase:
        return open_database({"database": {"type": "map"}})[0]

    def teardown(self) -> None:
        self.database.close()

    @rule(pairs=pairs)
    def put(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self.database.put_multi(pairs)
        self.oracle.update(pairs)

    @rule(pairs=pairs)
    def put_new(self, pairs: list[tuple[bytes, bytes]]) -> None:
        are_new = len({key for key, _ in pairs} - self.oracle.keys()) == len(pairs)
        try:
            self.database.put_multi(pairs, Mode.NEW_ONLY)
        except KeyExists:
            assert not are_new
        else:
            assert are_new
            self.oracle.update(pairs)

    @rule(pairs=pairs)
    def put_existing(self, pairs: list[tuple[bytes, bytes]]) -> None:
        exist = {key for key, _ in pairs} <= self.oracle.keys()
        try:
            self.database.put_multi(pairs, Mode.EXIST_ONLY)
        except KeyNotFound:
            assert not exist
        else:
            assert exist
            self.oracle.update(pairs)

    @rule(pairs=pairs)
    def append(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self.database.put_multi(pairs, Mode.APPEND)
        for key, value in pairs:
            self.oracle[key] = self.oracle.get(key, b"") + value

    @rule(wanted=st.lists(keys, max_size=4))
    def get(self, wanted: list[bytes]) -> None:
        assert self.database.get_multi(wanted) == [self.oracle.get(key) for key in wanted]

    @rule(wanted=st.lists(keys, max_size=4))
    def consume(self, wanted: list[bytes]) -> None:
        assert self.database.get_multi(wanted, Mode.CONSUME) == [self.oracle.get(key) for key in wanted]
        for key in wanted:
            self.oracle.pop(key, None)

    @rule(unwanted=st.lists(keys, max_size=4))
    def erase(self, unwanted: list[bytes]) -> None:
        self.database.erase_multi(unwanted)
        for key in unwanted:
            self.oracle.pop(key, None)

    @rule(prefix=keys)
    def erase_range(self, prefix: bytes) -> None:
        self.database.erase_range(prefix)
        self.oracle = {key: value for key, value in self.oracle.items() if not key.startswith(prefix)}

    @rule(
        start=keys, prefix=keys | st.just(b""), limit=st.none() | st.integers(0, 5), inclusive=st.booleans()
    )
    def list_from(self, start: bytes, prefix: bytes, limit: int | None, inclusive: bool) -> None:
        expected = [
            pair
            for pair in sorted(self.oracle.items())
            if pair[0].startswith(prefix) and (pair[0] > start or (inclusive and pair[0] == start))
        ]
        mode = Mode.INCLUSIVE if inclusive else Mode.DEFAULT
        assert self.database.list_keyvals(start, prefix, limit, mode) == expected[:limit]

    @invariant()
    def holds_what_the_oracle_holds(self) -> None:
        assert self.database.list_keyvals() == sorted(self.oracle.items())
        assert self.database.count() == len(self.oracle)


class RocksdbOracle(MapOracle):
    """The same on a ``rocksdb``, which is closed and opened again now and then."""

    kind = "rocksdb"

    def __init__(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        super().__init__()

    def open(self) -> EmbeddedDatabase:
        config = {"path": f"{self.directory.name}/db"}
        return open_database({"database": {"type": self.kind, "config": config}})[0]

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()

    @rule()
    def reopen(self) -> None:
        self.database.close()
        self.database = self.open()


class LmdbOracle(RocksdbOracle):
    """The same on an ``lmdb``, whose map is too small for what comes."""

    kind = "lmdb"

    @rule(key=keys, size=st.integers(50_000, 200_000))
    def put_large(self, key: bytes, size: int) -> None:
        self.put([(key, bytes(size))])

    def open(self) -> EmbeddedDatabase:
        with unittest.mock.patch("mochi.yokan.lmdb.MAP_SIZE", 1 << 16):
            return super().open()


class SetOracle(RuleBasedStateMachine):
    """Keys alone, in a ``set`` and in a set."""

    def __init__(self) -> None:
        super().__init__()
        self.database, _ = open_database({"database": {"type": "set"}})
        self.oracle: set[bytes] = set()

    @rule(new=st.lists(keys, max_size=4))
    def put(self, new: list[bytes]) -> None:
        self.database.put_multi([(key, b"") for key in new])
        self.oracle.update(new)

    @rule(unwanted=st.lists(keys, max_size=4))
    def erase(self, unwanted: list[bytes]) -> None:
        self.database.erase_multi(unwanted)
        self.oracle.difference_update(unwanted)

    @rule(new=keys, value=st.binary(min_size=1, max_size=4))
    def put_with_a_value(self, new: bytes, value: bytes) -> None:
        with pytest.raises(InvalidArguments, match="a set has keys alone"):
            self.database.put_multi([(b"other", b""), (new, value)])
        with pytest.raises(InvalidArguments if new not in self.oracle and b"\0" not in new else YokanError):
            self.database.create_collection(new)

    @invariant()
    def holds_what_the_oracle_holds(self) -> None:
        assert self.database.list_keys() == sorted(self.oracle)


TestMapOracle = MapOracle.TestCase
TestMapOracle.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestRocksdbOracle = RocksdbOracle.TestCase
TestRocksdbOracle.settings = settings(max_examples=10, stateful_step_count=30, deadline=None)
TestLmdbOracle = LmdbOracle.TestCase
TestLmdbOracle.settings = settings(max_examples=10, stateful_step_count=30, deadline=None)
TestSetOracle = SetOracle.TestCase
TestSetOracle.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
