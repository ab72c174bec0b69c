"""Where spill files go, and which are cleared away."""

from __future__ import annotations

from rostral_objectstore.core.spill_plan import (
    RETRY_DELAY_S_MAX,
    RETRY_DELAY_S_MIN,
    DirectoryView,
    FileView,
    Upkeep,
    choose_directory,
    plan_upkeep,
    retry_delay_s,
)


def directory(
    index: int, *, used: int = 0, free: int = 1000, total: int = 1000, retry_at_s: float = 0.0
) -> DirectoryView:
    return DirectoryView(
        index=index, used_bytes=used, free_bytes=free, total_bytes=total, retry_at_s=retry_at_s
    )


def choose(
    *directories: DirectoryView,
    need: int = 100,
    limit: int | None = None,
    now_s: float = 10.0,
    prefer: int | None = None,
) -> int | None:
    return choose_directory(
        directories,
        need_bytes=need,
        limit_bytes=limit,
        free_share_min=0.05,
        now_s=now_s,
        prefer=prefer,
    )


def test_directories_share_the_work() -> None:
    assert choose(directory(0, used=200), directory(1, used=100)) == 1
    assert choose(directory(0), directory(1)) == 0


def test_a_file_that_is_open_is_filled_first() -> None:
    both = directory(0), directory(1, used=500)
    assert choose(*both, prefer=1) == 1
    assert choose(*both, prefer=1, need=2000) is None


def test_no_file_system_is_filled_to_the_brim() -> None:
    assert choose(directory(0, free=149)) is None
    assert choose(directory(0, free=150)) == 0


def test_the_limit_is_for_all_directories_together() -> None:
    both = directory(0, used=100), directory(1, used=100)
    assert choose(*both, limit=299) is None
    assert choose(*both, limit=300) == 0


def test_a_directory_that_failed_is_left_alone_for_a_while() -> None:
    assert choose(directory(0, retry_at_s=11.0), directory(1, used=500)) == 1
    assert choose(directory(0, retry_at_s=11.0)) is None
    assert choose(directory(0, retry_at_s=11.0), now_s=11.0) == 0


def test_the_pause_doubles_up_to_a_limit() -> None:
    assert retry_delay_s(1) == RETRY_DELAY_S_MIN
    assert retry_delay_s(2) == 2 * RETRY_DELAY_S_MIN
    assert retry_delay_s(10**6) == RETRY_DELAY_S_MAX


def test_dead_files_are_deleted_and_sparse_ones_written_anew() -> None:
    files = [
        FileView(1, 1000, 0, open_for_writing=False),
        FileView(2, 1000, 299, open_for_writing=False),
        FileView(3, 1000, 300, open_for_writing=False),
        FileView(4, 1000, 10, open_for_writing=False),
        FileView(5, 1000, 0, open_for_writing=True),
    ]
    assert plan_upkeep(files, room_bytes=1000) == Upkeep(delete=(1,), rewrite=(4, 2))


def test_no_more_is_written_anew_than_there_is_room_for() -> None:
    files = [FileView(n, 1000, 100 + n, open_for_writing=False) for n in range(4)]
    assert plan_upkeep(files, room_bytes=250).rewrite == (0, 1)
