"""Every Azure resource the sandbox knows, in one SQLite file that survives a killed process.

A resource is its ARM id and its JSON body; ids are compared without regard to case, as Azure does.
Does not know what any type means: rules per type are data (`resource_types.yaml`), behaviour belongs to the services.
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
        """Raises `folder.Damaged` where the file is not a whole database."""
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS resources (key TEXT PRIMARY KEY, id TEXT NOT NULL, body TEXT NOT NULL)"
            )
            (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
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
        """Delete the resource and all below it; returns the ids that went, deepest first."""
        gone = [found for found, _ in self.below(resource_id)]
        if self.get(resource_id) is not None:
            gone.insert(0, resource_id)
        gone.sort(key=lambda found: -found.count("/"))
        with self._lock:
            self._db.executemany("DELETE FROM resources WHERE key = ?", [(_key(found),) for found in gone])
        return gone

    def below(self, resource_id: str) -> Iterator[tuple[str, Body]]:
        """All resources whose id continues `resource_id`, in order of id; the whole store for an empty id."""
        prefix = _key(resource_id) + "/"
        with self._lock:
            rows = self._db.execute(
                "SELECT id, body FROM resources WHERE substr(key, 1, ?) = ? ORDER BY key", (len(prefix), prefix)
            ).fetchall()
        return ((found, json.loads(body)) for found, body in rows)

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _key(resource_id: str) -> str:
    return resource_id.rstrip("/").lower()
