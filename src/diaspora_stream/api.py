"""The public API of diaspora_stream, under the names that applications know.

``from diaspora_stream.api import *`` brings `Exception`, which shadows the builtin, as it does in the original.
"""

from types import ModuleType

from diaspora_stream.consumer import (
    Consumer,
    FutureEvent,
    StopEventProcessor,
)
from diaspora_stream.consumer import byte_array_allocator as ByteArrayAllocator
from diaspora_stream.consumer import full_data_selector as FullDataSelector
from diaspora_stream.data_descriptor import DataDescriptor
from diaspora_stream.driver import Driver
from diaspora_stream.errors import DiasporaError as ClientException
from diaspora_stream.errors import DiasporaError as Exception
from diaspora_stream.event import Event
from diaspora_stream.future import FutureFlushed, FutureUint
from diaspora_stream.generations import compiled as _compiled
from diaspora_stream.partition_selector import PartitionSelector
from diaspora_stream.producer import Producer
from diaspora_stream.serializer import Serializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.topic import ADAPTIVE_BATCH_SIZE as AdaptiveBatchSize
from diaspora_stream.topic import Ordering, TopicHandle
from diaspora_stream.validator import Validator

__all__ = [
    "AdaptiveBatchSize",
    "ByteArrayAllocator",
    "ClientException",
    "Consumer",
    "DataDescriptor",
    "Driver",
    "Event",
    "Exception",
    "FullDataSelector",
    "FutureEvent",
    "FutureFlushed",
    "FutureUint",
    "Ordering",
    "PartitionSelector",
    "Producer",
    "Serializer",
    "StopEventProcessor",
    "ThreadPool",
    "TopicHandle",
    "Validator",
]


def __getattr__(name: str) -> ModuleType:
    if name != "pydiaspora_stream_api":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module: ModuleType = _compiled(name)
    return module
