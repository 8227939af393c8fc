"""The provider: one database, its verbs served as RPCs named ``yk_*``.

A verb that fails answers with a `YokanError`, which travels as a fault; nothing else of the provider is
affected.
"""

from typing import Any

from mochi.margo.engine import Engine
from mochi.margo.pools import Pool
from mochi.yokan.embedded import EmbeddedDatabase
from mochi.yokan.messages import (
    Documents,
    Ids,
    Keys,
    Listing,
    ListingDocuments,
    Name,
    Nothing,
    Pairs,
    Updates,
)

__all__ = ["YokanProvider"]


class YokanProvider:
    """Serves a database.

    Parameters
    ----------
    engine : Engine
    provider_id : int
    database : EmbeddedDatabase
        Belongs to the provider from now on; programs in this process may use it as well.
    config : dict
        The expanded configuration, kept to be shown.
    pool : Pool, optional
        Where the verbs run; the engine's default pool when absent.
    """

    def __init__(
        self,
        engine: Engine,
        provider_id: int,
        database: EmbeddedDatabase,
        config: dict[str, Any],
        pool: Pool | None = None,
    ) -> None:
        self.database = db = database
        self.config = config
        self._engine = engine
        self._provider_id = provider_id

        define, id = engine.define, provider_id
        define("yk_count", id, Nothing, lambda _: db.count(), pool=pool)
        define("yk_sync", id, Nothing, lambda _: db.sync(), pool=pool)
        define("yk_put", id, Pairs, lambda a: db.put_multi(a.pairs, a.mode), pool=pool)
        define("yk_get", id, Keys, lambda a: db.get_multi(a.keys, a.mode), pool=pool)
        define("yk_length", id, Keys, lambda a: db.length_multi(a.keys), pool=pool)
        define("yk_erase", id, Keys, lambda a: db.erase_multi(a.keys), pool=pool)
        define("yk_erase_range", id, Name, lambda a: db.erase_range(a.name), pool=pool)
        define(
            "yk_list_keys",
            id,
            Listing,
            lambda a: db.list_keys(a.from_key, a.prefix, a.limit, a.mode),
            pool=pool,
        )
        define(
            "yk_list_keyvals",
            id,
            Listing,
            lambda a: db.list_keyvals(a.from_key, a.prefix, a.limit, a.mode),
            pool=pool,
        )
        define("yk_coll_create", id, Name, lambda a: db.coll_create(a.name), pool=pool)
        define("yk_coll_drop", id, Name, lambda a: db.coll_drop(a.name), pool=pool)
        define("yk_coll_exists", id, Name, lambda a: db.coll_exists(a.name), pool=pool)
        define("yk_coll_size", id, Name, lambda a: db.coll_size(a.name), pool=pool)
        define("yk_coll_last_id", id, Name, lambda a: db.coll_last_id(a.name), pool=pool)
        define("yk_doc_store", id, Documents, lambda a: db.doc_store(a.name, a.documents), pool=pool)
        define("yk_doc_load", id, Ids, lambda a: db.doc_load(a.name, a.ids), pool=pool)
        define("yk_doc_update", id, Updates, lambda a: db.doc_update(a.name, a.documents, a.mode), pool=pool)
        define("yk_doc_length", id, Ids, lambda a: db.doc_length(a.name, a.ids), pool=pool)
        define("yk_doc_erase", id, Ids, lambda a: db.doc_erase(a.name, a.ids), pool=pool)
        define(
            "yk_doc_list",
            id,
            ListingDocuments,
            lambda a: db.doc_list(a.name, a.start_id, a.limit),
            pool=pool,
        )

    def close(self) -> None:
        """Take the RPCs back and close the database; idempotent."""
        self._engine.undefine(self._provider_id)
        self.database.close()
