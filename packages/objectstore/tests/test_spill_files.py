"""What is spilled comes back as it was, or not at all."""

from __future__ import annotations

import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rostral_gcs.errors import ConfigError
from rostral_objectstore.core.eviction import Key
from rostral_objectstore.errors import ObjectCorruptError, ObjectLostError, OutOfDiskError
from rostral_objectstore.spill import SpillStore
from rostral_objectstore.spill_directory import FILE_NAME, problems_of
from rostral_objectstore.spill_file import ENTRY_HEADER, FILE_HEADER, Item, stored_bytes

from .store import until

FILE_BYTES = 1 << 20


def item(number: int, size: int, *, seed: int = 0) -> Item:
    block = random.Random(f"{number} {seed}").randbytes(size)
    return Item((number, 1), number.to_bytes(20, "big"), 1, 4, block)


def restored(spill: SpillStore, key: Key) -> bytes:
    size = spill.size_bytes(key)
    assert size is not None
    target = bytearray(size)
    spill.read(key, target)
    return bytes(target)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.spill"))


@pytest.fixture
def directory(folder: Path) -> Path:
    path = folder / "spill"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def spill(directory: Path) -> Iterator[SpillStore]:
    """A spill store with one directory and files of 1 MiB."""
    spill = SpillStore([str(directory)], file_bytes=FILE_BYTES, free_share_min=0.0)
    yield spill
    spill.close()
    assert list(directory.iterdir()) == []


# ---- form


def test_objects_of_all_sizes_come_back(spill: SpillStore, directory: Path) -> None:
    sizes = [0, 1, 63, 64, 65, 4096, 100_001, 3 * FILE_BYTES + 5]
    items = [item(number, size) for number, size in enumerate(sizes)]
    spill.write(items[:5])
    for one in items[5:]:
        spill.write([one])
    for one in random.Random(1).sample(items, len(items)):
        assert restored(spill, one.key) == one.block
    assert spill.stats().objects == len(sizes)
    assert spill.stats().live_bytes == sum(stored_bytes(size) for size in sizes)
    assert spill.stats().file_bytes == sum(path.stat().st_size for path in files(directory))


def in_memory(path: Path) -> bool:
    """Whether the kernel can give the file's second mebibyte without its disk."""
    with path.open("rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(1 << 20)], 1 << 20, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:  # a file system that cannot tell
            return True
        return True


def test_the_disk_brings_what_is_expected_before_it_is_read(
    spill: SpillStore, directory: Path
) -> None:
    one = item(1, 3 << 20)
    spill.write([one])
    (path,) = files(directory)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_memory(path):
        pytest.skip(f"{directory} lies in memory, not on a disk")
    spill.expect(one.key)
    until(lambda: in_memory(path), "the bytes that the disk was to bring")
    assert restored(spill, one.key) == one.block


def test_what_is_not_there_can_be_expected(spill: SpillStore, directory: Path) -> None:
    spill.expect((1, 1))
    spill.write([item(1, 10)])
    files(directory)[0].unlink()
    spill.expect((1, 1))
    with pytest.raises(ObjectCorruptError):
        restored(spill, (1, 1))


def test_small_objects_share_files_and_a_huge_one_has_its_own(
    spill: SpillStore, directory: Path
) -> None:
    for number in range(100):
        spill.write([item(number, 5000)])
    assert len(files(directory)) == 1
    spill.write([item(1000, 10 * FILE_BYTES)])
    assert len(files(directory)) == 2
    assert files(directory)[1].stat().st_size == FILE_HEADER.size + stored_bytes(10 * FILE_BYTES)


def test_thousands_of_small_objects_go_in_one_write(spill: SpillStore) -> None:
    items = [item(number, number % 200) for number in range(3000)]
    spill.write(items)
    assert all(restored(spill, one.key) == one.block for one in items)


def test_only_we_can_read_what_is_spilled(spill: SpillStore, directory: Path) -> None:
    spill.write([item(1, 10)])
    (path,) = files(directory)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert FILE_NAME.fullmatch(path.name)


def test_many_threads_read_while_one_writes(spill: SpillStore) -> None:
    items = [item(number, 30_000) for number in range(60)]
    spill.write(items[:30])
    wrong: list[Key] = []

    def read() -> None:
        for one in random.Random(threading.get_ident()).sample(items[:30], 30):
            if restored(spill, one.key) != one.block:
                wrong.append(one.key)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for one in items[30:]:
        spill.write([one])
    for thread in threads:
        thread.join()
    assert not wrong


# ---- damage


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (old,) = file.read(1)
        file.seek(at)
        file.write(bytes([old ^ 0x10]))


def test_a_flipped_bit_anywhere_is_noticed(spill: SpillStore, directory: Path) -> None:
    one = item(1, 20_000)
    end = FILE_HEADER.size + ENTRY_HEADER.size + 20_000
    for at in [*range(0, end, 997), FILE_HEADER.size, FILE_HEADER.size + 127, end - 1]:
        spill.write([one])
        (path,) = files(directory)
        flip(path, at)
        with pytest.raises(ObjectCorruptError) as caught:
            restored(spill, one.key)
        assert (caught.value.path, caught.value.offset) == (str(path), FILE_HEADER.size)
        assert one.id.hex() in str(caught.value)
        spill.upkeep()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 64)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def swap_for_link(path: Path) -> None:
    copy = path.with_name("elsewhere")
    path.rename(copy)
    path.symlink_to(copy)


def swap_for_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [truncate, empty, Path.unlink, swap_for_link, swap_for_pipe])
def test_a_damaged_file_loses_its_objects_and_no_others(
    spill: SpillStore, directory: Path, damage: Callable[[Path], None]
) -> None:
    spill.write([item(1, FILE_BYTES)])
    (hurt,) = files(directory)
    spill.write([item(2, FILE_BYTES)])
    damage(hurt)
    with pytest.raises(ObjectCorruptError):
        restored(spill, (1, 1))
    assert (1, 1) not in spill
    assert restored(spill, (2, 1)) == item(2, FILE_BYTES).block
    for path in hurt.parent.glob("elsewhere"):
        path.unlink()


def test_a_file_of_another_number_or_another_store_is_not_believed(
    spill: SpillStore, directory: Path
) -> None:
    spill.write([item(1, FILE_BYTES)])
    spill.write([item(2, FILE_BYTES)])
    first, second = files(directory)
    first.write_bytes(second.read_bytes())
    with pytest.raises(ObjectCorruptError, match="another store, or of another time"):
        restored(spill, (1, 1))
    other = SpillStore([str(directory)], file_bytes=FILE_BYTES, free_share_min=0.0)
    other.write([item(9, FILE_BYTES)])
    other.write([item(2, FILE_BYTES, seed=1)])
    (stranger,) = [path for path in directory.glob(f"*/{second.name}") if path != second]
    second.write_bytes(stranger.read_bytes())
    with pytest.raises(ObjectLostError):
        restored(spill, (2, 1))
    other.close()


# ---- full and failing disks


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """Sets how large a file of this process may become: a disk that fills up in mid-write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size_bytes: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_half_way_leaves_no_part_of_it(
    spill: SpillStore, directory: Path, file_size_limit: Callable[[int], None]
) -> None:
    spill.write([item(1, 1000)])
    size = files(directory)[0].stat().st_size
    file_size_limit(100_000)
    with pytest.raises(OutOfDiskError) as caught:
        spill.write([item(2, 200_000)])
    assert caught.value.need_bytes == stored_bytes(200_000)
    assert caught.value.path in str(files(directory)[0])
    assert [path.stat().st_size for path in files(directory)] == [size]
    assert restored(spill, (1, 1)) == item(1, 1000).block
    assert (2, 1) not in spill


def test_the_next_directory_takes_what_one_refuses_and_each_is_tried_again(
    folder: Path, file_size_limit: Callable[[int], None]
) -> None:
    paths = [folder / "a", folder / "b"]
    for path in paths:
        path.mkdir(mode=0o700)
    now_s = 100.0
    spill = SpillStore(
        [str(path) for path in paths], free_share_min=0.0, clock=lambda: now_s, file_bytes=1000
    )
    shutil.rmtree(next(paths[0].iterdir()))
    spill.write([item(1, 5000)])
    spill.write([item(2, 5000)])
    file_size_limit(50)
    with pytest.raises(OutOfDiskError):
        spill.write([item(3, 5000)])
    assert not spill.accepts
    file_size_limit(resource.RLIM_INFINITY)
    with pytest.raises(OutOfDiskError, match="a moment ago"):
        spill.write([item(3, 5000)])
    now_s += 10
    spill.write([item(3, 5000)])
    assert all(restored(spill, (n, 1)) == item(n, 5000).block for n in (1, 2, 3))
    spill.close()


def test_the_limit_on_all_files_is_kept(directory: Path) -> None:
    spill = SpillStore(
        [str(directory)], limit_bytes=10_000, free_share_min=0.0, file_bytes=FILE_BYTES
    )
    spill.write([item(1, 6000)])
    with pytest.raises(OutOfDiskError, match="limit of 10000 bytes"):
        spill.write([item(2, 6000)])
    spill.forget([(1, 1)])
    spill.upkeep()
    spill.write([item(2, 6000)])
    assert restored(spill, (2, 1)) == item(2, 6000).block
    spill.close()


ON_A_SMALL_DISK = """
import sys
from rostral_objectstore.errors import OutOfDiskError
from rostral_objectstore.spill import SpillStore
from rostral_objectstore.spill_file import Item, stored_bytes

def item(number):
    return Item((number, 1), number.to_bytes(20, "big"), 1, 0, bytes([number]) * 300_000)

def check(numbers):
    for number in numbers:
        target = bytearray(300_000)
        spill.read((number, 1), target)
        assert target == item(number).block

# The check of what is free comes too early to help: others fill the disk as well.
spill = SpillStore([sys.argv[1]], free_share_min=0.0, clock=lambda: now_s, file_bytes=1 << 20)
now_s, number = 0.0, 0
directory = spill._directories[0]
directory.space = lambda: (1 << 40, 1 << 40)
try:
    while True:
        spill.write([item(number)])
        number += 1
except OutOfDiskError as error:
    assert error.path == directory.path and error.need_bytes == stored_bytes(300_000), error
    assert "No space left" in str(error), error
assert number > 10
check(range(number))
spill.forget([(n, 1) for n in range(number - 4)])
spill.upkeep()
now_s += 10
spill.write([item(number)])
check([*range(number - 4, number + 1)])
spill.close()
"""


def test_a_disk_that_is_full_keeps_what_it_has_and_is_used_again_when_there_is_space(
    directory: Path,
) -> None:
    script = f'mount -t tmpfs -o size=4m,mode=700 small "$1" && exec {sys.executable} -c "$2" "$1"'
    unshare = ["unshare", "-m", "sh", "-c", script, "sh", str(directory), ON_A_SMALL_DISK]
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("a mount of one's own takes the right to mount")
    ran = subprocess.run(unshare, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


# ---- reclaiming


def test_files_with_nothing_alive_are_deleted(spill: SpillStore, directory: Path) -> None:
    for number in range(5):
        spill.write([item(number, FILE_BYTES)])
    spill.forget([(1, 1), (3, 1)])
    spill.upkeep()
    assert len(files(directory)) == 3
    spill.forget([(number, 1) for number in range(5)])
    spill.upkeep()
    assert (files(directory), spill.stats().file_bytes) == ([], 0)


def test_a_sparse_file_is_written_anew(spill: SpillStore, directory: Path) -> None:
    items = [item(number, 100_000) for number in range(12)]
    for one in items:
        spill.write([one])
    old = files(directory)[0]
    spill.forget([one.key for one in items[2:]])
    assert spill.upkeep() == []
    assert not old.exists()
    assert all(restored(spill, one.key) == one.block for one in items[:2])
    assert spill.stats().file_bytes == FILE_HEADER.size + 2 * stored_bytes(100_000)


def test_damage_found_while_writing_anew_is_reported(spill: SpillStore, directory: Path) -> None:
    items = [item(number, 100_000) for number in range(12)]
    for one in items:
        spill.write([one])
    flip(files(directory)[0], FILE_HEADER.size + ENTRY_HEADER.size + 5)
    spill.forget([one.key for one in items[2:]])
    assert [entry.key for entry in spill.upkeep()] == [(0, 1)]
    assert restored(spill, (1, 1)) == items[1].block


def test_a_record_used_again_has_its_new_bytes(spill: SpillStore) -> None:
    spill.write([item(1, 500)])
    spill.write([item(1, 700, seed=2)])
    assert restored(spill, (1, 1)) == item(1, 700, seed=2).block
    assert spill.stats().live_bytes == stored_bytes(700)


# ---- directories


def test_everything_wrong_with_a_directory_is_said(folder: Path) -> None:
    good = folder / "good"
    good.mkdir(mode=0o700)
    (folder / "link").symlink_to(good)
    (folder / "file").touch()
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    said = {
        name: " ".join(problems_of(str(folder / name), free_share_min=0.0))
        for name in ("good", "missing", "link", "file", "shared")
    }
    assert said["good"] == ""
    assert "mkdir" in said["missing"]
    assert "symbolic link" in said["link"]
    assert "not a directory" in said["file"]
    assert "others can write" in said["shared"]
    assert "free, less than" in problems_of(str(good), free_share_min=1.0)[0]


def test_what_a_dead_store_left_is_removed_and_a_live_one_is_let_be(directory: Path) -> None:
    code = """
import os, sys
from rostral_objectstore.spill import SpillStore
from rostral_objectstore.spill_file import Item
spill = SpillStore([sys.argv[1]], free_share_min=0.0)
spill.write([Item((1, 1), bytes(20), 1, 0, bytes(1000))])
os.kill(os.getpid(), 9)
"""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code, str(directory)], check=False)
    assert len(list(directory.iterdir())) == 1, "each start removes what the one before left"
    stranger = directory / "rostral-spill-notes"
    stranger.mkdir()
    first = SpillStore([str(directory)], free_share_min=0.0)
    first.write([item(1, 1000)])
    second = SpillStore([str(directory)], free_share_min=0.0)
    assert restored(first, (1, 1)) == item(1, 1000).block
    assert len(list(directory.iterdir())) == 3
    second.close()
    first.close()
    stranger.rmdir()
    assert list(directory.iterdir()) == []


def test_a_folder_that_another_store_has_is_refused(directory: Path) -> None:
    from rostral_objectstore.spill_directory import SpillDirectory

    first = SpillDirectory(str(directory), bytes(16))
    with pytest.raises(ConfigError, match=f"locked by pid {os.getpid()}"):
        SpillDirectory(str(directory), bytes(16))
    first.close()
