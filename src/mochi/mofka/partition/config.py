"""Fields of a partition's configuration: the table of the user guide, with its defaults and bounds."""

import os
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from mochi.margo.bulk import BufferPoolConfig
from mochi.margo.config import convert
from mochi.margo.errors import ConfigError
from mochi.mofka.chunks import ChunkConfig

Positive = Annotated[int, Meta(ge=1, le=2**48)]
NotNegative = Annotated[int, Meta(ge=0, le=2**20)]
Tiers = Annotated[int, Meta(ge=1, le=32)]
Multiple = Annotated[float, Meta(gt=1.0, le=1024.0)]


class PoolFields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A buffer pool: tier k holds buffers of ``first_size * size_multiple ** k`` bytes."""

    first_size: Positive
    num_buffers: NotNegative = 0
    num_tiers: Tiers = 1
    size_multiple: Multiple = 4.0

    def pool(self) -> BufferPoolConfig:
        """Return it as margo knows it."""
        return BufferPoolConfig(
            first_size=self.first_size,
            num_buffers=self.num_buffers,
            num_tiers=self.num_tiers,
            size_multiple=self.size_multiple,
        )


class MetadataPool(PoolFields, frozen=True, kw_only=True):
    """Buffers for metadata."""

    first_size: Positive = 65536


class DataPool(PoolFields, frozen=True, kw_only=True):
    """Buffers for data from producers."""

    first_size: Positive = 67108864


class DescriptorPool(PoolFields, frozen=True, kw_only=True):
    """Buffers for data descriptors."""

    first_size: Positive = 4096


class Producers(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where batches from producers are received."""

    data_buffer_pool: DataPool = DataPool()
    metadata_buffer_pool: MetadataPool = MetadataPool()


class Consumers(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where batches for consumers are read into."""

    desc_buffer_pool: DescriptorPool = DescriptorPool()
    metadata_buffer_pool: MetadataPool = MetadataPool()


MAX_DIRECTORY_NAME = 255
"""Bytes that file systems allow for the name of a directory."""

_RESERVED = (".deleted",)
"""Topics whose partitions would have directories that mean something else."""


def check_topic_name(topic: str, kind: str = "memory") -> None:
    """Check that a topic may have this name; partitions of `kind` ``default`` have directories named after it.

    Raises
    ------
    ConfigError
        Says what is wrong.
    """
    if not topic or topic in _RESERVED or not topic.isprintable() or set(topic) & {"/", ":"}:
        raise ConfigError(
            "topic name", f"must be printable, without '/' and ':', and none of {_RESERVED}; found {topic!r}"
        )
    size = len(directory_of(topic, str(UUID(int=0)), "").encode())
    if kind == "default" and size > MAX_DIRECTORY_NAME:
        allowed = MAX_DIRECTORY_NAME - size + len(topic.encode())
        raise ConfigError(
            "topic name",
            f"has {len(topic.encode())} bytes, and a topic with partitions in files at most {allowed}: their "
            f"directories are named after it; found {topic!r}",
        )


def is_uuid(text: str) -> bool:
    """Tell whether a text is the uuid of a partition, as a directory's name ends with it."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def directory_of(topic: str, uuid: str, path: str) -> str:
    """Return the directory of a `default` partition whose `path` this is."""
    return os.path.join(path, f"{topic}-{uuid}")


class DefaultFields(ChunkConfig, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Configuration of a `default` partition: what can be set of its directory, and of its buffers."""

    path: Annotated[str, Meta(min_length=1)]
    producers: Producers = Producers()
    consumers: Consumers = Consumers()

    @classmethod
    def parse(cls, value: dict[str, Any]) -> "DefaultFields":
        """Check a ``partition`` section; `ConfigError` names the field at fault and what is allowed."""
        fields = convert(value, cls, "config.partition")
        if fields.path.startswith("~"):
            raise ConfigError(
                "config.partition.path",
                f"{fields.path!r} is not expanded here, where it may be another's home; write it in full",
            )
        return fields

    def expand(self) -> dict[str, Any]:
        """Return the section with all that was filled in, keys sorted; a retention only if it was given."""
        expanded: dict[str, Any] = msgspec.to_builtins(self, order="sorted")
        return expanded


class LegacyFields(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Configuration of a `legacy` partition: none, its backends have their own."""


PARTITION_FIELDS = DefaultFields.__struct_fields__
"""Names of the fields, as they may also stand at the top level of a topic's options."""
