from rostral_objectstore._native.queue import Queue
from rostral_objectstore._native.segment import Segment

def link_lane(
    base: Queue,
    lane: Queue,
    number: int,
    priority: int,
    depth: int,
    before: Queue | None,
    after: Queue | None,
) -> None: ...
def set_rank(base: Queue, priority: int, depth: int) -> None: ...
def rank_of(segment: Segment, loc: int) -> tuple[int, int]: ...
def lengths(base: Queue) -> list[tuple[int, int]]: ...
