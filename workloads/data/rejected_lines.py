"""Malformed lines of a snapshot: a sample of them next to the prepared table, and the refusal of a file with too many.

`_rejected/lines.jsonl` holds the first malformed lines of each file with the reason; it is all that remains of a
refused snapshot. Does not find malformed lines: `tables.py` and `request_limits.py` mark them.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workloads.data.tables import Lines
from workloads.errors import WorkloadError

REJECTED = "_rejected"
"""A folder in that of the table: Spark ignores names that begin with `_` when it reads the table."""
_SAMPLE = 1_000  # maximal number of malformed lines to keep per file
_REASONS_SHOWN, _SHOWN_WIDTH = 5, 120


@dataclass(frozen=True)
class RejectedLines:
    """A sample of the malformed lines of all files."""

    folder: Path
    limit: float
    """Share of malformed lines of one file above which the snapshot is refused."""
    sample: list[dict[str, Any]] = field(default_factory=list)

    def report(self, lines: Lines, count: int, malformed: int) -> dict[str, Any]:
        """Return the entry of one file in `_prepared.json`. Raises `WorkloadError` if too many lines are malformed."""
        sample = lines.rejected(min(malformed, _SAMPLE)) if malformed else []
        self.sample.extend(sample)
        if malformed > self.limit * count:
            raise WorkloadError(
                f"{lines.file}: {malformed} of {count} lines ({malformed / count:.2%}) are malformed, more than "
                f"limits.malformed_share {self.limit:.2%}. The first {len(sample)} are in {self.folder}:"
                + "".join(_reasons(sample))
            )
        return {
            "file": lines.file.name,
            "rows": count - malformed,
            "rejected": malformed,
            "unused_columns": list(lines.unused),
        }

    def write(self) -> None:
        if self.sample:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.sample)
            (self.folder / "lines.jsonl").write_text(text, "utf-8")


def _reasons(sample: list[dict[str, Any]]) -> list[str]:
    """Return a line for each of the most common reasons, with its count and the first line it applies to."""
    first = {line["reason"]: line for line in reversed(sample)}
    common = Counter(line["reason"] for line in sample).most_common(_REASONS_SHOWN)
    return [f"\n  {count} x {reason}, first in {_shown(first[reason])}" for reason, count in common]


def _shown(line: Mapping[str, Any]) -> str:
    byte = f", byte {line['byte']}" if "byte" in line else ""
    return f"line {line['number']}{byte}: {line['line'][:_SHOWN_WIDTH]!r}"
