"""A member of a group: builds the first view, answers for it, and publishes it in the group file.

A service has one token, made by the first flock provider of the process; from then on the engine refuses
callers who do not know it. The group file is written once the whole server is ready, so that whoever finds it
can use the service, and is removed on the way out unless another service has replaced it.
"""

import logging
import os
import secrets
from typing import Any

import msgspec

from mochi.flock import group_file, rpc
from mochi.flock.config import FlockConfig
from mochi.flock.errors import GroupFileError
from mochi.flock.group_file import GroupView, Member
from mochi.margo.engine import Engine
from mochi.margo.pools import Pool

_TOKEN_BYTES = 32

_log = logging.getLogger(__name__)


class FlockProvider:
    """The sole member of a static group.

    Parameters
    ----------
    engine : Engine
        Server that the provider belongs to; it gets the token.
    provider_id : int
        Identifier of the provider in its server.
    config : FlockConfig
        Checked configuration.
    pool : Pool, optional
        Where views are handed out; the engine's RPC pool when None.
    """

    def __init__(
        self, engine: Engine, provider_id: int, config: FlockConfig, pool: Pool | None = None
    ) -> None:
        self._engine = engine
        self._provider_id = provider_id
        self._config = config
        self._file = None if config.file is None else os.path.abspath(config.file)
        engine.define(rpc.GET_VIEW, provider_id, rpc.GetView, self._get_view, pool=pool)
        engine.token = engine.token or secrets.token_bytes(_TOKEN_BYTES)
        self._view = GroupView(
            (Member(engine.address, provider_id),),
            {
                "__config__": msgspec.json.encode(config.group.config, order="sorted").decode(),
                "__type__": config.group.type,
                group_file.TOKEN_KEY: engine.token.hex(),
            },
        )

    @property
    def view(self) -> GroupView:
        """The current view of the group, with its token."""
        return self._view

    @property
    def config(self) -> dict[str, Any]:
        """Expanded configuration."""
        return self._config.expand()

    def ready(self, engine: Engine) -> None:
        """Publish the group file, if the configuration names one.

        Raises
        ------
        GroupFileError
            The file cannot be written.
        """
        if self._file is not None:
            group_file.write(self._file, self._view)

    def close(self) -> None:
        """Leave the server, and remove the group file if it is still the one of this service. Idempotent."""
        self._engine.undefine(self._provider_id)
        if self._file is None:
            return
        try:
            if group_file.read(self._file) == self._view:
                os.unlink(self._file)
        except GroupFileError:
            pass
        except OSError as error:
            _log.warning("flock: the group file %s cannot be removed: %s", self._file, error.strerror)

    def _get_view(self, request: rpc.GetView) -> GroupView:
        return self._view.without_token()
