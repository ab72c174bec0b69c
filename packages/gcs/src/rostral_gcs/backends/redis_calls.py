"""The arguments of the two scripts that commit: ``COMMIT`` and ``APPEND`` of ``redis_layout.py``.

Pure: no I/O. This file owns how changes and columns are laid out for the scripts, and what the
shard's row is afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rostral_gcs.backends.base import Answer, Change, Columns
from rostral_gcs.backends.redis_layout import Keys, Meta, pack_changes, pack_row, pack_sizes
from rostral_gcs.tables.registry import TABLES

__all__ = ["APPENDED", "append_call", "commit_call"]

APPENDED: Final = frozenset(spec.number for spec in TABLES.values() if spec.appended)
"""Tables whose rows move to files when they are over."""


def commit_call(
    keys: Keys, meta: Meta, changes: Sequence[Change], answers: Sequence[Answer]
) -> tuple[Meta, list[bytes], list[object]]:
    """The shard's row after the commit, and the script's keys and arguments."""
    # Later changes win, so only the last one of each key is sent.
    final: dict[int, dict[bytes, Change]] = {}
    for change in changes:
        final.setdefault(change.table, {})[change.key] = change
    watchable = [change for change in changes if change.watchable]
    size = sum(len(change.value or b"") for change in watchable)
    after = replace(
        meta,
        generation=meta.generation + 1,
        last_sequence=changes[-1].sequence if changes else meta.last_sequence,
        history_size=meta.history_size + size,
    )
    answer_part: list[object] = []
    time_part: list[object] = []
    for answer in answers:
        answer_part += (answer.request_id, answer.payload)
        time_part += (repr(answer.time_s), answer.request_id)
    history_part: list[object] = []
    for score, pack in pack_changes(watchable):
        history_part += (score, pack)
    used = [keys.meta, keys.answers, keys.times, keys.history]
    counts: list[object] = [len(answer_part), len(time_part), len(history_part), len(final)]
    rest: list[object] = []
    for table, last in final.items():
        used += (keys.rows(table), keys.index(table))
        deletes: list[object] = []
        rows: list[object] = []
        index: list[object] = []
        for key, change in last.items():
            if change.value is None:
                deletes.append(key)
            else:
                rows += (key, pack_row(change.sequence, change.value))
                index += (b"0", key)
        counts += (len(deletes), len(rows), len(index), int(table in APPENDED))
        rest += (*deletes, *rows, *index)
    used += [keys.ages(table) for table in final if table in APPENDED]
    head: list[object] = [meta.epoch, meta.generation, meta.last_sequence]
    head += (after.generation, after.last_sequence, size)
    parts = [*head, *counts, *answer_part, *time_part, *history_part, *rest]
    return after, used, parts


def append_call(
    keys: Keys, meta: Meta, columns: Sequence[Columns], answers: Sequence[Answer]
) -> tuple[Meta, list[bytes], list[object]]:
    """As ``commit_call``, for rows that stay columns until Redis has them."""
    last_sequence = meta.last_sequence + sum(len(part.sizes) for part in columns)
    after = replace(meta, generation=meta.generation + 1, last_sequence=last_sequence)
    used = [keys.meta, keys.answers, keys.times]
    arguments: list[object] = [meta.epoch, meta.generation, meta.last_sequence]
    arguments += (after.generation, after.last_sequence, 2 * len(answers), 2 * len(answers))
    for part in columns:
        used += (keys.rows(part.table), keys.pending(part.table), keys.ages(part.table))
        arguments += (part.key_size, part.first_sequence, len(part.sizes), part.keys)
        arguments += (pack_sizes(part.sizes), part.values)
    for answer in answers:
        arguments += (answer.request_id, answer.payload)
    for answer in answers:
        arguments += (repr(answer.time_s), answer.request_id)
    return after, used, arguments
