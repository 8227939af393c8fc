"""What every database does, whatever its backend and wherever it is."""

import pytest

from mochi.yokan.database import Database
from mochi.yokan.errors import InvalidArguments, InvalidMode, KeyExists, KeyNotFound, YokanError
from mochi.yokan.mode import Mode

FRUIT = [(b"apple", b"1"), (b"apricot", b"22"), (b"banana", b""), (b"cherry", b"4444")]


@pytest.fixture
def fruit(database: Database) -> Database:
    database.put_multi(FRUIT)
    return database


def test_a_new_database_is_empty(database: Database) -> None:
    assert database.count() == 0
    assert database.list_keys() == []


def test_what_was_put_is_got_and_what_was_not_is_none(fruit: Database) -> None:
    assert fruit.get(b"apricot") == b"22"
    assert fruit.get(b"plum") is None
    assert fruit.get_multi([b"cherry", b"plum", b"banana"]) == [b"4444", None, b""]


def test_a_synced_database_has_what_it_had(fruit: Database) -> None:
    pairs = fruit.list_keyvals()
    fruit.sync()
    assert fruit.list_keyvals() == pairs


def test_lengths_and_existence_tell_empty_from_absent(fruit: Database) -> None:
    assert fruit.length_multi([b"banana", b"cherry", b"plum"]) == [0, 4, None]
    assert fruit.length(b"apple") == 1
    assert fruit.exists_multi([b"banana", b"plum"]) == [True, False]
    assert fruit.exists(b"apple")
    assert not fruit.exists(b"appl")


def test_a_put_replaces_and_the_last_of_equal_keys_wins(fruit: Database) -> None:
    fruit.put_multi([(b"apple", b"a"), (b"apple", b"b")])
    assert fruit.get(b"apple") == b"b"
    assert fruit.count() == len(FRUIT)


def test_keys_and_values_are_any_bytes(database: Database) -> None:
    pairs = [(b"\0", b"\0"), (b"\0\xff", bytes(range(256))), (b"\xff" * 300, b"x" * 100_000)]
    database.put_multi(pairs)
    assert database.list_keyvals() == pairs


def test_an_empty_key_is_refused_and_nothing_is_put(database: Database) -> None:
    with pytest.raises(InvalidArguments, match="empty"):
        database.put_multi([(b"a", b"1"), (b"", b"2")])
    assert database.count() == 0


def test_erase_takes_what_is_there(fruit: Database) -> None:
    fruit.erase_multi([b"apple", b"plum", b"apple"])
    fruit.erase(b"cherry")
    assert fruit.list_keys() == [b"apricot", b"banana"]


def test_erase_range_takes_a_prefix(fruit: Database) -> None:
    fruit.erase_range(b"ap")
    assert fruit.list_keys() == [b"banana", b"cherry"]
    fruit.erase_range(b"")
    assert fruit.count() == 0


def test_append_goes_after_the_value_that_is_there(fruit: Database) -> None:
    fruit.put_multi([(b"apple", b"+"), (b"apple", b"-"), (b"plum", b"p")], Mode.APPEND)
    assert fruit.get_multi([b"apple", b"plum"]) == [b"1+-", b"p"]


def test_new_only_puts_all_or_nothing_and_names_the_key(fruit: Database) -> None:
    with pytest.raises(KeyExists, match="banana") as caught:
        fruit.put_multi([(b"plum", b"5"), (b"banana", b"6")], Mode.NEW_ONLY)
    assert caught.value.code == "key_exists"
    assert caught.value.details == {"key": "banana"}
    assert fruit.list_keyvals() == FRUIT
    fruit.put_multi([(b"plum", b"5"), (b"quince", b"6")], Mode.NEW_ONLY)
    assert fruit.get_multi([b"plum", b"quince"]) == [b"5", b"6"]


def test_new_only_takes_the_second_of_equal_keys_for_an_existing_one(database: Database) -> None:
    with pytest.raises(KeyExists, match="plum"):
        database.put_multi([(b"plum", b""), (b"plum", b"2")], Mode.NEW_ONLY)
    assert database.count() == 0


def test_exist_only_puts_all_or_nothing_and_names_the_key(fruit: Database) -> None:
    with pytest.raises(KeyNotFound, match="plum") as caught:
        fruit.put_multi([(b"apple", b"x"), (b"plum", b"y")], Mode.EXIST_ONLY)
    assert caught.value.code == "key_not_found"
    assert fruit.list_keyvals() == FRUIT
    fruit.put(b"banana", b"x", Mode.EXIST_ONLY)
    assert fruit.get(b"banana") == b"x"


def test_consume_erases_what_it_returns(fruit: Database) -> None:
    assert fruit.get_multi([b"apple", b"plum"], Mode.CONSUME) == [b"1", None]
    assert fruit.get(b"cherry", Mode.CONSUME) == b"4444"
    assert fruit.list_keys() == [b"apricot", b"banana"]


def test_keys_are_listed_in_order_after_the_given_one(fruit: Database) -> None:
    assert fruit.list_keys() == [key for key, _ in FRUIT]
    assert fruit.list_keys(b"apple") == [b"apricot", b"banana", b"cherry"]
    assert fruit.list_keys(b"apple", mode=Mode.INCLUSIVE)[0] == b"apple"
    assert fruit.list_keys(b"b", limit=1) == [b"banana"]
    assert fruit.list_keys(limit=0) == []
    assert fruit.list_keys(b"d") == []


def test_a_prefix_filters_and_may_be_cut_off(fruit: Database) -> None:
    assert fruit.list_keys(prefix=b"ap") == [b"apple", b"apricot"]
    assert fruit.list_keys(b"apple", b"ap") == [b"apricot"]
    assert fruit.list_keys(b"b", b"ap") == []
    assert fruit.list_keys(prefix=b"ap", mode=Mode.NO_PREFIX) == [b"ple", b"ricot"]
    assert fruit.list_keyvals(prefix=b"ap", limit=1, mode=Mode.NO_PREFIX) == [(b"ple", b"1")]


def test_pages_of_a_listing_make_up_the_whole(fruit: Database) -> None:
    pairs: list[tuple[bytes, bytes]] = []
    while page := fruit.list_keyvals(pairs[-1][0] if pairs else b"", limit=3):
        pairs += page
    assert pairs == FRUIT


def test_a_limit_out_of_range_is_refused(fruit: Database) -> None:
    for limit in (-1, 2**63):
        with pytest.raises(InvalidArguments, match=f"limit {limit} is out of range"):
            fruit.list_keys(limit=limit)


def test_keys_may_be_left_out_of_a_listing_all_or_all_but_the_last(fruit: Database) -> None:
    assert fruit.list_keyvals(limit=2, mode=Mode.IGNORE_KEYS) == [(b"", b"1"), (b"", b"22")]
    assert fruit.list_keyvals(limit=2, mode=Mode.KEEP_LAST) == [(b"", b"1"), (b"apricot", b"22")]


def test_the_mode_about_transfers_has_no_effect(fruit: Database) -> None:
    assert fruit.get(b"apple", Mode.NO_RDMA) == b"1"
    assert fruit.list_keys(limit=1, mode=Mode.NO_RDMA | Mode.INCLUSIVE) == [b"apple"]


def test_a_mode_that_a_verb_does_not_have_is_an_error_that_names_it(fruit: Database) -> None:
    with pytest.raises(
        InvalidMode, match="put does not take mode CONSUME; it takes APPEND, NEW_ONLY, EXIST_ONLY, NO_RDMA"
    ) as caught:
        fruit.put(b"plum", b"5", Mode.CONSUME | Mode.NEW_ONLY)
    assert caught.value.code == "mode"
    with pytest.raises(InvalidMode, match="get does not take mode WAIT"):
        fruit.get(b"plum", Mode.WAIT)
    with pytest.raises(InvalidMode, match="SUFFIX"):
        fruit.list_keyvals(mode=Mode.SUFFIX)
    with pytest.raises(InvalidMode, match="IGNORE_KEYS"):
        fruit.list_keys(mode=Mode.IGNORE_KEYS)
    with pytest.raises(InvalidMode, match="0x800000"):
        fruit.get(b"apple", 0x800000)
    assert fruit.list_keyvals() == FRUIT


def test_every_error_has_the_one_root(fruit: Database) -> None:
    with pytest.raises(YokanError):
        fruit.put(b"apple", b"", Mode.NEW_ONLY)
