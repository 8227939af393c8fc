"""The provider: one target, served as RPCs named ``warabi_*``.

What waits for a disk runs on the threads of the target, never in a handler.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct

from mochi.margo import rpc
from mochi.margo.connection import Request
from mochi.margo.engine import Engine
from mochi.margo.errors import Fault, ProtocolError
from mochi.margo.pools import Pool
from mochi.margo.wire import Buffer, Frame, Limits, allocate_private
from mochi.warabi import messages
from mochi.warabi.config import Open
from mochi.warabi.messages import Create, CreateWrite, Done, Pieces, Region, Write
from mochi.warabi.target import Target

__all__ = ["WarabiProvider"]

T = TypeVar("T", bound=Struct)

Answer = tuple[Struct, list[list[Buffer]]]


class WarabiProvider:
    """Serves a target.

    Parameters
    ----------
    engine : Engine
    provider_id : int
    opened : Open
        Belongs to the provider from now on.
    pool : Pool, optional
        Where the handlers run; the engine's default pool when absent.

    Attributes
    ----------
    target : Target
        Programs in this process may use it as well.
    config : dict
        The expanded configuration.
    """

    def __init__(self, engine: Engine, provider_id: int, opened: Open, pool: Pool | None = None) -> None:
        self.target: Target = opened.target
        self.config: dict[str, Any] = opened.config
        self._engine = engine
        self._provider_id = provider_id
        self._opened = opened
        self._pool = pool
        target = opened.target

        def create(asked: Create, data: None) -> Answer:
            return Region(target.create(asked.size)), []

        def write(asked: Write, data: Buffer) -> Answer:
            target.write(asked.region, asked.parts, data, persist=asked.persist)
            return Done(), []

        def create_write(asked: CreateWrite, data: Buffer) -> Answer:
            return Region(target.create_write(data, persist=asked.persist)), []

        def persist(asked: Pieces, data: None) -> Answer:
            target.persist(asked.region, asked.parts)
            return Done(), []

        def read(asked: Pieces, data: None) -> Answer:
            return Done(), [[target.read(asked.region, asked.parts)]]

        def erase(asked: Region, data: None) -> Answer:
            target.erase(asked.region)
            return Done(), []

        self._define(messages.CREATE, Create, create)
        self._define(messages.WRITE, Write, write, with_data=True)
        self._define(messages.CREATE_WRITE, CreateWrite, create_write, with_data=True)
        self._define(messages.PERSIST, Pieces, persist)
        self._define(
            messages.READ, Pieces, read, answer_size=lambda asked: sum(size for _, size in asked.parts)
        )
        self._define(messages.ERASE, Region, erase)

    def _define(
        self,
        name: str,
        kind: type[T],
        work: Callable[[T, Any], Answer],
        *,
        with_data: bool = False,
        answer_size: Callable[[T], int] | None = None,
    ) -> None:
        def handle(request: Request) -> None:
            try:
                asked = rpc.unpack(request.frame.message, kind)
            except ProtocolError as error:
                raise Fault("bad_request", f"{name}: {error}") from error
            data = request.frame.bulk[0] if with_data else None

            def carry_out() -> None:
                answer, bulk = work(asked, data)
                request.reply(rpc.pack(answer), bulk)

            def start() -> None:
                if self._opened.io is None:
                    carry_out()
                else:
                    self._opened.io.run(lambda: request.attempt(carry_out))

            if answer_size is None:
                start()
            else:
                request.reserve(min(max(answer_size(asked), 0), Limits().segment), start)

        def allocate(frame: Frame) -> list[memoryview]:
            if len(frame.segments) != 1 or frame.segments[0].lease:
                raise Fault("bad_request", f"{name} takes one segment of bytes, in line")
            return allocate_private(frame)

        options: dict[str, Any] = {"allocate": allocate} if with_data else {}
        self._engine.register(name, self._provider_id, handle, pool=self._pool, **options)

    def close(self) -> None:
        """Take the RPCs back, finish what is under way, and close the target, whose file stays; idempotent."""
        self._engine.undefine(self._provider_id)
        if self._opened.io is not None:
            self._opened.io.close()
        self._opened.target.close()
