"""The five minutes of the README, word for word but for where the files are."""

import re
import sys
from pathlib import Path

import pytest

from mochi.mofka.testing import Service

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.long
def test_what_the_readme_shows_works(tmp_path: Path) -> None:
    section = README.partition("## Five minutes")[2].partition("\n## ")[0]
    section = section.replace("/tmp/mofka", str(tmp_path / "mofka"))
    blocks: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```", section, re.M | re.S)
    (config,) = [text for kind, text in blocks if kind == "json"]
    _, start, end = [text for kind, text in blocks if not kind]
    produce, consume = [text for kind, text in blocks if kind == "python"]
    serve, _, create = start.partition("&\n")
    assert serve.split() == ["bedrock", "na+sm", "-c", "config.json"]
    with Service(tmp_path / "service", config) as service:
        for command in (create, [sys.executable, "-c", produce]):
            done = service.run(command)
            assert done.returncode == 0, done.stderr
        consumed = service.run([sys.executable, "-c", consume])
        assert consumed.returncode == 0, consumed.stderr
        assert len(consumed.stdout.splitlines()) == 10_000
        done = service.run(f"set -e\n{end}")
        assert done.returncode == 0, done.stderr
        assert service.end() == 0
