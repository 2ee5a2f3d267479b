"""A recording that is written is read as it was; what is damaged, cut off or foreign is told, with what to do."""

import os
import zlib
from dataclasses import replace
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enricher.evidence.records import RECORD_SIZE, Event, EventKind
from enricher.recording.entries import (
    Arrival,
    ClockSample,
    Decision,
    End,
    EndReason,
    Entry,
    Evidence,
    MalformedEntry,
    Verdict,
    packed,
    unpacked,
)
from enricher.recording.file import (
    MAGIC,
    DamagedRecording,
    Head,
    NotARecording,
    Recording,
    UnknownRecording,
    block,
    preamble,
)

HEAD = Head(
    product_version="0.1.0",
    kernel="6.18.0",
    machine="x86_64",
    host="node-1",
    started_unix_ns=1,
    enriching=True,
    stamp_all=False,
    tail_ns=300_000_000,
    threshold_ns=1_000_000,
    retention_ns=30_000_000_000,
    max_waits=10,
    max_span_ends=16,
    max_body_bytes=1 << 20,
)
RECORD = Event(kind=EventKind.HEARTBEAT, start_ns=1, end_ns=1).pack()
ENTRIES: list[Entry] = [
    ClockSample(1, 2**63),
    Evidence(3, RECORD * 3),
    Arrival(1, 4, "ipv4:127.0.0.1:5", b"body"),
    Decision(1, 5, 6, Verdict.OPEN, 7),
    Decision(1, 8, None, Verdict.CHANGED, body=b"changed"),
    End(EndReason.STOPPED),
]


def read_up_to_damage(path: Path) -> tuple[list[Entry], DamagedRecording | None]:
    found: list[Entry] = []
    try:
        with Recording(path) as recording:
            for entry in recording.entries():
                found.append(entry)  # noqa: PERF402 - what comes before the error is asked for
    except DamagedRecording as damage:
        return found, damage
    return found, None


u64 = st.integers(0, 2**64 - 1)
entries = st.one_of(
    st.builds(Evidence, u64, st.integers(0, 5).map(lambda n: os.urandom(n * RECORD_SIZE))),
    st.builds(ClockSample, u64, u64),
    st.builds(Arrival, u64, u64, st.text(st.characters(codec="utf-8"), max_size=50), st.binary(max_size=200)),
    st.builds(
        Decision,
        u64,
        u64,
        st.none() | st.integers(0, 2**63 - 1),
        st.sampled_from(Verdict),
        u64,
        st.binary(max_size=200),
    ),
    st.builds(End, st.sampled_from(EndReason)),
)


def written(path: Path, *blocks: bytes, head: Head = HEAD) -> Path:
    path.write_bytes(preamble(head) + b"".join(blocks))
    return path


def read(path: Path) -> list[Entry]:
    with Recording(path) as recording:
        return list(recording.entries())


@given(st.lists(entries, max_size=20))
def test_entries_are_read_as_they_were_packed(made: list[Entry]) -> None:
    assert list(unpacked(b"".join(piece for entry in made for piece in packed(entry)))) == made


@given(st.binary(max_size=300))
def test_any_bytes_are_entries_or_malformed(data: bytes) -> None:
    try:
        found = list(unpacked(data))
    except MalformedEntry:
        return
    assert all(isinstance(entry, Entry) for entry in found)


def test_a_recording_holds_its_head_and_its_entries_in_their_order(tmp_path: Path) -> None:
    path = written(tmp_path / "a.rec", block(ENTRIES[:3]), block(ENTRIES[3:]))
    assert read(path) == ENTRIES
    with Recording(path) as recording:
        assert recording.head == HEAD


def test_cut_off_anywhere_what_was_whole_is_read_and_the_rest_is_told(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.rec", block(ENTRIES[:3]), block(ENTRIES[3:])).read_bytes()
    first_block_ends = len(preamble(HEAD)) + len(block(ENTRIES[:3]))
    for length in range(len(MAGIC), len(whole)):
        path = tmp_path / "cut.rec"
        path.write_bytes(whole[:length])
        found, damage = read_up_to_damage(path)
        assert found == (ENTRIES[:3] if length >= first_block_ends else [])
        assert damage is not None
        assert "cut off" in str(damage)
        assert damage.fix


def test_a_changed_byte_is_told_by_its_place(tmp_path: Path) -> None:
    path = written(tmp_path / "a.rec", block(ENTRIES[:3]), block(ENTRIES[3:]))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedRecording) as told:
        read(path)
    assert told.value.offset == len(preamble(HEAD)) + len(block(ENTRIES[:3]))


def test_a_changed_byte_anywhere_is_never_taken_for_right(tmp_path: Path) -> None:
    content = written(tmp_path / "a.rec", block(ENTRIES)).read_bytes()
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 0x10
        (tmp_path / "b.rec").write_bytes(changed)
        with pytest.raises((DamagedRecording, NotARecording, UnknownRecording)):
            read(tmp_path / "b.rec")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, MAGIC[:-1]])
def test_another_file_is_no_recording(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(content)
    with pytest.raises(NotARecording, match="no recording"):
        read(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotARecording, match="No such file"):
        read(tmp_path / "nowhere")


def test_a_format_of_the_future_is_told_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(MAGIC + pack("<I", 99) + bytes(1000))
    with pytest.raises(UnknownRecording, match="format 99") as told:
        read(path)
    assert "version of enricher" in told.value.fix


def test_events_of_another_version_are_told_with_the_version_that_can_read_them(tmp_path: Path) -> None:
    path = written(tmp_path / "a.rec", head=replace(HEAD, events_version=1, product_version="0.0.7"))
    with pytest.raises(UnknownRecording, match="version 1") as told:
        read(path)
    assert "0.0.7" in told.value.fix


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"product_version": 1}', b"\xff", b"nan"])
def test_a_head_that_makes_no_sense_is_damage(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(MAGIC + pack("<III", 1, len(text), zlib.crc32(text)) + text)
    with pytest.raises(DamagedRecording, match="head"):
        read(path)


def test_a_small_block_that_unpacks_into_a_huge_one_is_not_unpacked(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(20 << 20))
    path = written(tmp_path / "a.rec", pack("<III", len(bomb), 10, zlib.crc32(bomb)) + bomb)
    with pytest.raises(DamagedRecording, match="not as long as it says"):
        read(path)
    huge = pack("<III", len(bomb), 2**32 - 1, zlib.crc32(bomb)) + bomb
    with pytest.raises(DamagedRecording, match="too long"):
        read(written(tmp_path / "b.rec", huge))
