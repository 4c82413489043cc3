from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from peerinfer.blobs import chunks_of, index_of
from peerinfer.errors import InputError, LimitExceeded, ProtocolError, StateUnusable
from peerinfer.ids import Cid, cid_of
from peerinfer.limits import CHUNK_BYTES, MIB
from peerinfer_node.blob_folder import BlobFolder
from peerinfer_node.blob_store import FileBlobStore
from peerinfer_node.memory_blob_store import MemoryBlobStore
from peerinfer_node.ports import BlobStore

MakeStore = Callable[[int], BlobStore]


@pytest.fixture(params=["file", "memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """The two twins keep the same promises."""
    if request.param == "memory":
        return MemoryBlobStore
    return lambda bytes_max: FileBlobStore(tmp_path / "blobs", bytes_max)


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(f"{size} {seed}").randbytes(size)


def index_bytes(data: bytes) -> bytes:
    return index_of(chunks_of(data)).encode()


def cid(data: bytes) -> Cid:
    return cid_of(index_bytes(data))


def room(*blobs: bytes) -> int:
    """The bytes that these blobs take, to the byte."""
    return sum(len(data) + len(index_bytes(data)) for data in blobs)


async def fill(store: BlobStore, data: bytes, *, without: tuple[int, ...] = ()) -> None:
    """Stores a blob chunk by chunk, as a fetch would."""
    name = cid(data)
    await store.begin(name, index_bytes(data))
    for number, chunk in enumerate(chunks_of(data)):
        if number not in without:
            assert await store.write_chunk(name, number, chunk)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
async def test_what_was_put_is_read_back(make_store: MakeStore, size: int) -> None:
    store = make_store(8 * MIB)
    data = noise(size)
    name = await store.put(data)
    assert name == cid(data)
    assert await store.has(name)
    assert await store.read(name) == data
    assert await store.manifest(name) == index_bytes(data)
    assert await store.held() == [name]
    chunks = [bytes(chunk) for chunk in chunks_of(data)]
    assert [await store.read_chunk(name, number) for number in range(len(chunks))] == chunks
    assert await store.read_chunk(name, len(chunks)) is None
    assert await store.read_chunk(name, -1) is None


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 1])
async def test_a_file_has_the_name_of_its_bytes(make_store: MakeStore, tmp_path: Path, size: int) -> None:
    store = make_store(8 * MIB)
    data = noise(size)
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert await store.put_file(str(path)) == await store.put(data)
    assert await store.read(cid(data)) == data


async def test_a_file_that_cannot_be_read_is_the_users_error(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(8 * MIB)
    with pytest.raises(InputError, match="No such file"):
        await store.put_file(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="cannot read"):
        await store.put_file(str(tmp_path))


async def test_a_pipe_is_refused_and_does_not_hold_us_up(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path / "blobs", MIB)
    os.mkfifo(tmp_path / "pipe")
    with trio.fail_after(5), pytest.raises(InputError, match="not a regular file"):
        await store.put_file(str(tmp_path / "pipe"))


async def test_what_is_not_held_is_said_so(make_store: MakeStore) -> None:
    store = make_store(MIB)
    name = cid(b"elsewhere")
    assert not await store.has(name)
    assert await store.manifest(name) is None
    assert await store.read_chunk(name, 0) is None
    with pytest.raises(KeyError):
        await store.read(name)
    with pytest.raises(StateUnusable, match="not being stored"):
        await store.write_chunk(name, 0, b"elsewhere")


async def test_a_blob_is_held_once_its_last_chunk_is_in(make_store: MakeStore) -> None:
    store = make_store(8 * MIB)
    data = noise(3 * CHUNK_BYTES)
    name = cid(data)
    chunks = list(chunks_of(data))
    assert await store.begin(name, index_bytes(data)) == [0, 1, 2]
    assert await store.write_chunk(name, 2, chunks[2])
    assert await store.write_chunk(name, 0, chunks[0])
    assert await store.begin(name, index_bytes(data)) == [1]
    assert not await store.has(name)
    assert await store.held() == []
    assert await store.manifest(name) is None
    assert await store.pieces(name) == (index_bytes(data), frozenset((0, 2)))
    assert await store.read_chunk(name, 0) == chunks[0]  # others who want it may have this already
    assert await store.read_chunk(name, 1) is None
    assert await store.write_chunk(name, 1, chunks[1])
    assert await store.pieces(name) == (index_bytes(data), None)
    assert await store.read(name) == data
    assert await store.begin(name, index_bytes(data)) == []


async def test_a_chunk_that_is_wrong_is_not_stored(make_store: MakeStore) -> None:
    store = make_store(8 * MIB)
    data = noise(CHUNK_BYTES + 5)
    name = cid(data)
    chunks = list(chunks_of(data))
    await store.begin(name, index_bytes(data))
    assert not await store.write_chunk(name, 0, noise(CHUNK_BYTES, seed=1))
    assert not await store.write_chunk(name, 0, chunks[1])
    assert not await store.write_chunk(name, 1, bytes(chunks[1]) + b"?")
    assert not await store.write_chunk(name, 2, b"")
    assert not await store.write_chunk(name, -1, chunks[1])
    assert await store.begin(name, index_bytes(data)) == [0, 1]


async def test_an_index_under_another_name_is_refused(make_store: MakeStore) -> None:
    store = make_store(8 * MIB)
    with pytest.raises(ProtocolError):
        await store.begin(cid(b"a"), index_bytes(b"b"))
    assert await store.held() == []


TRAVERSALS = [
    "../../etc/passwd",
    "/etc/passwd",
    "",
    ".",
    "..",
    "b" + "a" * 58,
    cid(b"x") + "/..",
    "pins",
    cid(b"x").upper(),
]


@pytest.mark.parametrize("name", TRAVERSALS)
async def test_a_name_that_is_no_cid_never_touches_the_disk(make_store: MakeStore, tmp_path: Path, name: str) -> None:
    store = make_store(8 * MIB)
    before = files(tmp_path, "**/*")
    bad = Cid(name)
    assert not await store.has(bad)
    assert await store.manifest(bad) is None
    assert await store.read_chunk(bad, 0) is None
    with pytest.raises(KeyError):
        await store.read(bad)
    with pytest.raises(ProtocolError):
        await store.begin(bad, index_bytes(b"x"))
    with pytest.raises(StateUnusable):
        await store.write_chunk(bad, 0, b"x")
    with pytest.raises(ProtocolError):
        await store.pin(bad, "job")
    assert files(tmp_path, "**/*") == before


def test_the_folder_itself_makes_no_path_of_what_is_no_cid(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path / "blobs")
    before = files(tmp_path, "**/*")
    for name in map(Cid, TRAVERSALS):
        with pytest.raises(ValueError, match="not"):
            folder.add(name, b"", 0)
        with pytest.raises(ValueError, match="not"):
            folder.remove(name)
        with pytest.raises(ValueError, match="not"):
            folder.add_pin(name, "job")
    assert files(tmp_path, "**/*") == before


# --- room ------------------------------------------------------------------------------------------------------------


async def test_what_exactly_fits_stays_and_one_byte_less_room_drops_the_longest_unused(make_store: MakeStore) -> None:
    blobs = [noise(100, seed) for seed in range(3)]
    store = make_store(room(*blobs))
    names = [await store.put(data) for data in blobs]
    assert await store.held() == names[::-1]
    await store.read(names[0])
    assert await store.held() == [names[0], names[2], names[1]]
    extra = await store.put(b"!")
    assert await store.held() == [extra, names[0], names[2]]
    with pytest.raises(KeyError):
        await store.read(names[1])


async def test_reading_a_chunk_is_a_use(make_store: MakeStore) -> None:
    blobs = [noise(100, seed) for seed in range(2)]
    store = make_store(room(*blobs))
    names = [await store.put(data) for data in blobs]
    await store.read_chunk(names[0], 0)
    assert await store.held() == [names[0], names[1]]


async def test_a_pinned_blob_is_kept_until_its_holder_lets_go(make_store: MakeStore) -> None:
    blobs = [noise(100, seed) for seed in range(3)]
    store = make_store(room(*blobs[:2]))
    names = [await store.put(data) for data in blobs[:2]]
    await store.pin(names[0], "job one")
    third = await store.put(blobs[2])
    assert await store.held() == [third, names[0]]
    await store.pin(third, "job two")
    with pytest.raises(LimitExceeded, match="pinned"):
        await store.put(blobs[1])
    assert await store.held() == [third, names[0]]
    await store.unpin("job one")
    assert await store.put(blobs[1]) == names[1]
    assert await store.held() == [names[1], third]


async def test_what_nobody_pins_any_more_leaves_the_disk_at_once_where_that_is_asked_for(make_store: MakeStore) -> None:
    blobs = [noise(100, seed) for seed in range(3)]
    store = make_store(room(*blobs))
    mine, shared, other = [await store.put(data) for data in blobs]
    for name, holder in ((mine, "one"), (shared, "one"), (shared, "two")):
        await store.pin(name, holder)
    await store.discard(mine)
    assert set(await store.held()) == {mine, shared, other}, "a pinned blob was discarded"
    await store.unpin("one", discard=True)
    assert set(await store.held()) == {shared, other}
    await store.unpin("two")
    assert set(await store.held()) == {shared, other}
    await store.discard(shared)
    await store.discard(shared)
    assert await store.held() == [other]
    with pytest.raises(KeyError):
        await store.read(shared)
    assert await store.put(blobs[1]) == shared


async def test_what_is_discarded_is_gone_from_the_disk(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path, 10 * CHUNK_BYTES)
    name = await store.put(noise(CHUNK_BYTES))
    await store.pin(name, "job")
    await store.unpin("job", discard=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # noqa: ASYNC240


async def test_pins_of_holders_that_are_not_named_are_taken_back(make_store: MakeStore) -> None:
    blobs = [noise(100, seed) for seed in range(3)]
    store = make_store(room(*blobs[:2]))
    names = [await store.put(data) for data in blobs[:2]]
    for name, holder in zip(names, ("one", "two"), strict=True):
        await store.pin(name, holder)
    await store.unpin_all_but(["two", "three"])
    third = await store.put(blobs[2])
    assert await store.held() == [third, names[1]]


async def test_a_blob_larger_than_the_cache_is_refused_and_one_of_its_size_is_not(make_store: MakeStore) -> None:
    data = noise(2 * CHUNK_BYTES)
    store = make_store(room(data))
    with pytest.raises(LimitExceeded):
        await store.put(data + b"!")
    assert await store.read(await store.put(data)) == data


async def test_a_blob_under_way_keeps_its_room_and_goes_if_it_must(make_store: MakeStore) -> None:
    under_way, other = noise(2 * CHUNK_BYTES, 1), noise(2 * CHUNK_BYTES, 2)
    store = make_store(room(under_way) + 10)
    await fill(store, under_way, without=(1,))
    await store.put(other)
    assert await store.held() == [cid(other)]
    with pytest.raises(StateUnusable, match="make room"):
        await store.write_chunk(cid(under_way), 1, under_way[CHUNK_BYTES:])
    assert await store.read(cid(other)) == other


async def test_writing_a_chunk_is_a_use(make_store: MakeStore) -> None:
    under_way, other = noise(2 * CHUNK_BYTES), noise(100)
    store = make_store(room(under_way, other))
    await fill(store, under_way, without=(0, 1))
    await store.put(other)
    assert await store.write_chunk(cid(under_way), 0, under_way[:CHUNK_BYTES])
    third = await store.put(b"!")
    assert await store.held() == [third]
    assert await store.write_chunk(cid(under_way), 1, under_way[CHUNK_BYTES:])
    assert await store.read(cid(under_way)) == under_way


async def test_a_pin_may_come_before_its_blob(make_store: MakeStore) -> None:
    first, second = noise(100, 1), noise(100, 2)
    store = make_store(room(first))
    await store.pin(cid(first), "job")
    await fill(store, first)
    with pytest.raises(LimitExceeded):
        await store.put(second)


# --- what a break leaves behind --------------------------------------------------------------------------------------


async def test_blobs_pins_and_the_order_of_use_outlive_the_process(tmp_path: Path) -> None:
    blobs = [noise(100, seed) for seed in range(4)]
    store = FileBlobStore(tmp_path, room(*blobs[:3]))
    names = [await store.put(data) for data in blobs[:3]]
    await store.read(names[0])
    await store.pin(names[1], "job")
    again = await FileBlobStore.open(tmp_path, room(*blobs[:3]))
    assert await again.held() == [names[0], names[2], names[1]]
    fourth = await again.put(blobs[3])
    assert await again.held() == [fourth, names[0], names[1]]
    await again.unpin("job")
    third = FileBlobStore(tmp_path, room(*blobs[:3]))
    assert await third.put(blobs[2]) == names[2]
    assert await third.held() == [names[2], fourth, names[0]]


async def test_the_order_of_use_outlives_a_clock_that_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileBlobStore(tmp_path, MIB)
    names = []
    for wall_ns in (5_000, 4_000, 3_000, 3_000):
        monkeypatch.setattr("time.time_ns", lambda wall_ns=wall_ns: wall_ns)
        names.append(await store.put(noise(10, len(names))))
    assert await FileBlobStore(tmp_path, MIB).held() == names[::-1]


async def test_a_lowered_limit_is_kept_from_the_start(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path, MIB)
    names = [await store.put(noise(100, seed)) for seed in range(3)]
    again = FileBlobStore(tmp_path, room(noise(100)))
    assert await again.held() == [names[2]]
    assert len(files(tmp_path, "*.blob")) == 1


def leave_as_it_is(part: Path, data: bytes) -> None:
    pass


def add_garbage_at_the_tail(part: Path, data: bytes) -> None:
    with part.open("ab") as file:
        file.write(noise(3 * CHUNK_BYTES, 99))


def tear_the_chunk_being_written(part: Path, data: bytes) -> None:
    with part.open("r+b") as file:
        file.seek(3 * CHUNK_BYTES)
        file.write(data[3 * CHUNK_BYTES : 3 * CHUNK_BYTES + 1000])


@pytest.mark.parametrize("damage", [leave_as_it_is, add_garbage_at_the_tail, tear_the_chunk_being_written])
async def test_a_killed_process_costs_only_what_was_not_written(
    tmp_path: Path, damage: Callable[[Path, bytes], None]
) -> None:
    data = noise(5 * CHUNK_BYTES + 7)
    name = cid(data)
    await fill(FileBlobStore(tmp_path, 8 * MIB), data, without=(1, 3, 5))
    (part,) = files(tmp_path, "*.part")
    damage(part, data)
    store = FileBlobStore(tmp_path, 8 * MIB)
    assert not await store.has(name)
    assert await store.begin(name, index_bytes(data)) == [1, 3, 5]
    await fill(store, data, without=(0, 2, 4))
    assert await store.read(name) == data
    assert files(tmp_path, "*.blob")[0].stat().st_size == len(data)


async def test_a_stored_chunk_that_was_damaged_meanwhile_is_wanted_again(tmp_path: Path) -> None:
    data = noise(3 * CHUNK_BYTES)
    await fill(FileBlobStore(tmp_path, 8 * MIB), data, without=(2,))
    (part,) = files(tmp_path, "*.part")
    with part.open("r+b") as file:
        file.seek(100)
        file.write(b"????")
    assert await FileBlobStore(tmp_path, 8 * MIB).begin(cid(data), index_bytes(data)) == [0, 2]


@pytest.mark.parametrize("size", [0, CHUNK_BYTES + 1])
async def test_killed_before_the_last_rename_it_completes_at_the_next_begin(tmp_path: Path, size: int) -> None:
    data = noise(size)
    await FileBlobStore(tmp_path, 8 * MIB).put(data)
    (blob,) = files(tmp_path, "*.blob")
    blob.rename(blob.with_suffix(".part"))
    store = FileBlobStore(tmp_path, 8 * MIB)
    assert not await store.has(cid(data))
    assert await store.begin(cid(data), index_bytes(data)) == []
    assert await store.read(cid(data)) == data


async def test_leftovers_and_nonsense_in_the_folder_are_no_trouble(tmp_path: Path) -> None:
    data = noise(10)
    await FileBlobStore(tmp_path, MIB).put(data)
    ours = [cid(noise(10, seed)) for seed in range(1, 5)]
    (tmp_path / f"{ours[0]}.part").write_bytes(b"no index")
    (tmp_path / f"{ours[1]}.index").write_bytes(b"no blob")
    (tmp_path / f"{ours[2]}.new").write_bytes(b"half an ind")
    (tmp_path / f"{ours[3]}.index").write_bytes(index_bytes(data))
    (tmp_path / f"{ours[3]}.blob").write_bytes(b"under another name")
    (tmp_path / "notes.txt").write_text("somebody else's")
    (tmp_path / "pins" / "notes.txt").write_text("somebody else's")
    assert await FileBlobStore(tmp_path, MIB).held() == [cid(data)]
    assert sorted(path.name for path in files(tmp_path, "*")) == sorted(
        [f"{cid(data)}.index", f"{cid(data)}.blob", "notes.txt", "pins"]
    )


KEEP_PUTTING = """
import sys, trio
from pathlib import Path
from peerinfer_node.blob_store import FileBlobStore

async def main():
    store = FileBlobStore(Path(sys.argv[1]), 1 << 30)
    for path in sys.argv[2:]:
        name = await store.put_file(path)
        await store.pin(name, "job")
        print(name, flush=True)

trio.run(main)
"""


@pytest.mark.slow
async def test_whatever_moment_a_process_is_killed_at_nothing_false_is_held(tmp_path: Path) -> None:
    sources = []
    for seed in range(12):
        sources.append(tmp_path / f"source {seed}")
        sources[-1].write_bytes(noise(2 * CHUNK_BYTES + seed, seed))
    root = tmp_path / "blobs"
    for finished in (1, 2, 4, 7):
        command = [sys.executable, "-c", KEEP_PUTTING, str(root), *map(str, sources)]
        names: list[Cid] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
            assert process.stdout is not None
            while len(names) < finished:
                names.append(Cid(process.stdout.readline().strip()))
            process.kill()
        store = FileBlobStore(root, 1 << 30)
        held = await store.held()
        assert set(names) <= set(held)
        for name in held:
            assert cid(await store.read(name)) == name
    for source in sources:
        assert await store.read(await store.put_file(str(source))) == source.read_bytes()


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[CHUNK_BYTES + 1] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    os.truncate(path, CHUNK_BYTES + 1)


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, Path.unlink])
async def test_a_damaged_blob_is_dropped_when_it_is_read(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    data = noise(2 * CHUNK_BYTES)
    store = FileBlobStore(tmp_path, room(data))
    for read in (store.read, lambda name: store.read_chunk(name, 1)):
        name = await store.put(data)
        damage(files(tmp_path, "*.blob")[0])
        with suppress(KeyError):
            assert await read(name) is None
        assert not await store.has(name)
        assert not files(tmp_path, "*.*")


async def test_a_file_that_changes_while_it_is_put_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(noise(2 * CHUNK_BYTES))
    store = FileBlobStore(tmp_path / "blobs", 8 * MIB)
    add = BlobFolder.add

    def add_and_change(self: BlobFolder, *args: object) -> None:
        path.write_bytes(noise(2 * CHUNK_BYTES, 1))
        add(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(BlobFolder, "add", add_and_change)
    with pytest.raises(InputError, match="changed"):
        await store.put_file(str(path))
    assert await store.held() == []


# --- the disk and many callers ---------------------------------------------------------------------------------------


async def test_a_full_disk_is_one_clear_line_and_the_store_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileBlobStore(tmp_path, 8 * MIB)

    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(BlobFolder, "write_chunk", full)
        with pytest.raises(StateUnusable, match="is full") as caught:
            await store.put(b"data")
        assert "\n" not in str(caught.value)
    with monkeypatch.context() as patch:
        patch.setattr(BlobFolder, "add", full)
        with pytest.raises(StateUnusable, match="is full"):
            await store.put(b"other")
    assert await store.read(await store.put(b"data")) == b"data"
    assert await store.read(await store.put(b"other")) == b"other"


async def test_a_folder_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateUnusable, match="cannot use the blob cache"):
        await FileBlobStore.open(tmp_path / "file", MIB)


async def test_an_emptied_folder_costs_the_blobs_and_nothing_else(tmp_path: Path) -> None:
    data = noise(2 * CHUNK_BYTES)
    store = FileBlobStore(tmp_path, 8 * MIB)
    await fill(store, data, without=(1,))
    for path in files(tmp_path, "*.*"):
        path.unlink()
    with pytest.raises(StateUnusable):
        await store.write_chunk(cid(data), 1, data[CHUNK_BYTES:])
    assert await store.read(await store.put(data)) == data


async def test_many_callers_at_once_do_not_disturb_each_other(make_store: MakeStore) -> None:
    blobs = [noise(CHUNK_BYTES + 1000, seed) for seed in range(6)]
    store = make_store(room(*blobs[:3]))

    async def use(number: int) -> None:
        random_ = random.Random(number)
        for _ in range(10):
            data = random_.choice(blobs)
            try:
                name = await store.put(data)
                assert await store.read(name) == data
            except (KeyError, StateUnusable):
                pass  # It had to make room for another between two steps.

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(use, number)
    held = await store.held()
    assert 1 <= len(held) <= 3
    for name in held:
        assert cid(await store.read(name)) == name


async def test_two_who_store_the_same_blob_both_succeed(make_store: MakeStore) -> None:
    data = noise(4 * CHUNK_BYTES)
    store = make_store(8 * MIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.put, data)
        nursery.start_soon(fill, store, data)
        nursery.start_soon(store.put, data)
    assert await store.read(cid(data)) == data


async def test_a_cancelled_put_leaves_a_store_that_works(tmp_path: Path) -> None:
    data = noise(8 * CHUNK_BYTES)
    store = FileBlobStore(tmp_path, room(data))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.put, data)
            while not files(tmp_path, "*.part"):
                await trio.lowlevel.checkpoint()
            scope.cancel()
    assert await store.held() == []
    assert await store.read(await store.put(data)) == data
