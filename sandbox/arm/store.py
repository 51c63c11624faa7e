"""All Azure resources of the sandbox, in one SQLite file that survives a killed process.

A resource is its ARM id and its JSON body; ids are compared without regard to case, as Azure does.
Has no rules of types: those are in `resource_types.yaml` and in the services.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sandbox.instance_lock import Damaged
from sandbox.state_files import Unreadable

Body = dict[str, Any]


class ResourceStore:
    def __init__(self, path: Path) -> None:
        """Raises `instance_lock.Damaged` if the file is not a complete database."""
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS resources (key TEXT PRIMARY KEY, id TEXT NOT NULL, body TEXT NOT NULL)"
            )
            (result,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if result != "ok":
                raise sqlite3.DatabaseError(result)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise Damaged(Unreadable(path, error)) from error

    def get(self, resource_id: str) -> Body | None:
        with self._lock:
            row = self._db.execute("SELECT body FROM resources WHERE key = ?", (_key(resource_id),)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, resource_id: str, body: Body) -> None:
        with self._lock:
            self._db.execute(
                "INSERT INTO resources VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET body = excluded.body",
                (_key(resource_id), resource_id, json.dumps(body)),
            )

    def delete(self, resource_id: str) -> list[str]:
        """Delete the resource and all below it; returns the deleted ids, deepest first."""
        deleted = [child_id for child_id, _ in self.below(resource_id)]
        if self.get(resource_id) is not None:
            deleted.insert(0, resource_id)
        deleted.sort(key=lambda deleted_id: -deleted_id.count("/"))
        with self._lock:
            self._db.executemany("DELETE FROM resources WHERE key = ?", [(_key(each),) for each in deleted])
        return deleted

    def below(self, resource_id: str) -> Iterator[tuple[str, Body]]:
        """All resources whose id continues `resource_id`, in order of id; the whole store for an empty id."""
        prefix = _key(resource_id) + "/"
        with self._lock:
            rows = self._db.execute(
                "SELECT id, body FROM resources WHERE substr(key, 1, ?) = ? ORDER BY key", (len(prefix), prefix)
            ).fetchall()
        return ((child_id, json.loads(body)) for child_id, body in rows)

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _key(resource_id: str) -> str:
    return resource_id.rstrip("/").lower()
