"""An overlay shows files as if they had been changed, and leaves them as they are."""

import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.disk import Overlay, PosixFiles
from mochi.mofka.chunks import StorageError

NAMES = ("there", "new")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.integers(0, 40),
            st.binary(max_size=20) | st.none() | st.just("remove") | st.just("rename"),
        ),
        max_size=12,
    )
)
def test_reading_gives_what_it_would_had_the_changes_been_made(
    changes: list[tuple[str, int, bytes | str | None]],
) -> None:
    files = PosixFiles()
    with tempfile.TemporaryDirectory() as below, tempfile.TemporaryDirectory() as real:
        for each in (below, real):
            Path(each, "there").write_bytes(bytes(range(1, 31)))
        with closing(Overlay(files, "quarantine-")) as overlay:
            for name, place, content in changes:
                there = f"{real}/{name}" in map(str, Path(real).iterdir())
                for layer, directory in ((overlay, below), (files, real)):
                    if isinstance(content, str):
                        if there and content == "remove":
                            layer.remove(f"{directory}/{name}")
                        elif there:
                            layer.rename(f"{directory}/{name}", f"{directory}/renamed")
                        continue
                    with closing(layer.open(f"{directory}/{name}", writable=True)) as file:
                        if content is None:
                            file.truncate(place)
                        else:
                            file.write([content[:5], content[5:]], place)
            assert sorted(overlay.list_directory(below)) == sorted(files.list_directory(real))
            for path in Path(real).iterdir():
                shown = f"{below}/{path.name}"
                assert overlay.size(shown) == path.stat().st_size
                with closing(overlay.open(shown, writable=False)) as file:
                    for start in (0, overlay.size(shown) // 3):
                        found = bytearray(overlay.size(shown) - start)
                        file.read(memoryview(found), start)
                        assert found == path.read_bytes()[start:]
                    with pytest.raises(StorageError, match=r"too early"):
                        file.read(memoryview(bytearray(2)), max(0, overlay.size(shown) - 1))
        assert [path.name for path in Path(below).iterdir()] == ["there"]
        assert Path(below, "there").read_bytes() == bytes(range(1, 31))


def test_a_missing_file_is_missing_and_a_lock_is_not_made(tmp_path: Path) -> None:
    with closing(Overlay(PosixFiles(), "quarantine-")) as overlay:
        with pytest.raises(StorageError, match="No such file"):
            overlay.open(str(tmp_path / "nothing"), writable=False)
        with closing(overlay.lock(str(tmp_path / "lock"))):
            assert list(tmp_path.iterdir()) == []
        overlay.remove(str(tmp_path / "lock"))
        with closing(overlay.open(str(tmp_path / "quarantine-1"), writable=True)) as file:
            file.write([b"much"], 3)
            with pytest.raises(StorageError, match="not kept"):
                file.read(memoryview(bytearray(1)), 0)
        assert overlay.size(str(tmp_path / "quarantine-1")) == 7
        assert overlay.changed == [str(tmp_path / "quarantine-1")]
    assert list(tmp_path.iterdir()) == []
