"""A driver that keeps descriptions of topics in a file, for the tests of diaspora-ctl."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diaspora_stream.driver import Driver
from diaspora_stream.errors import ConfigError, TopicExists, TopicNotFound
from diaspora_stream.partition_selector import PartitionSelector
from diaspora_stream.plugins import Component
from diaspora_stream.serializer import Serializer
from diaspora_stream.validator import Validator

log = logging.getLogger(__name__)


def _description(component: Component | None) -> dict[str, Any] | None:
    return None if component is None else component.to_metadata()


class Topics(Driver):
    """Options: `file`, and `note`, which is stored with each topic."""

    def _open(self, options: Any) -> None:
        if "file" not in options:
            raise ConfigError("driver.file", "missing")
        self._file = Path(options["file"])
        self._note = options.get("note")

    def create_topic(
        self,
        name: str,
        *,
        options: Mapping[str, Any] = {},
        validator: Validator | None = None,
        partition_selector: PartitionSelector | None = None,
        serializer: Serializer | None = None,
        schema: Any = None,
    ) -> None:
        topics = self.list_topics()
        if name in topics:
            raise TopicExists(name)
        if "bad" in options:
            raise ConfigError("options.bad.field", "must not be there, options.good is")
        if "odd" in options:
            log.warning("options.odd has no effect")
        topics[name] = {
            "options": options,
            "note": self._note,
            "validator": _description(validator),
            "partition_selector": _description(partition_selector),
            "serializer": _description(serializer),
        }
        self._file.write_text(json.dumps(topics))

    def delete_topic(self, name: str) -> None:
        topics = self.list_topics()
        if name not in topics:
            raise TopicNotFound(name, tuple(topics))
        del topics[name]
        self._file.write_text(json.dumps(topics))

    def list_topics(self) -> dict[str, dict[str, Any]]:
        topics: dict[str, dict[str, Any]] = json.loads(self._file.read_text()) if self._file.exists() else {}
        return topics

    def close(self) -> None:
        """Nothing is open."""
