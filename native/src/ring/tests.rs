//! What no real ring buffer does on command: records still being written, and lengths that cannot be.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use super::*;
use crate::log::{LogReader, Read};

const SIZE: u64 = 4096;

fn memory() -> File {
    // SAFETY: makes a new descriptor, which the File then owns.
    unsafe { File::from_raw_fd(libc::memfd_create(c"test".as_ptr(), 0)) }
}

/// A file laid out as a ring buffer's map is.
struct Kernel {
    file: File,
    page: u64,
    produced: u64,
}

impl Kernel {
    fn new() -> Self {
        let (file, page) = (memory(), page_size() as u64);
        file.set_len(2 * page + 2 * SIZE).unwrap();
        Self { file, page, produced: 0 }
    }

    /// A record with this header; returns its position.
    fn write(&mut self, header: u32, start_ns: u64) -> u64 {
        let position = self.produced;
        let event = Event { kind: EVENT_WAIT, start_ns, ..Event::default() };
        for (at, byte) in (position + 8..).zip(event.bytes()) {
            self.put(at, &[byte]);
        }
        self.put(position, &header.to_le_bytes());
        self.produced += 8 + RECORD_SIZE as u64;
        self.file.write_all_at(&self.produced.to_le_bytes(), self.page).unwrap();
        position
    }

    /// In both halves, as the kernel maps its pages twice.
    fn put(&self, position: u64, bytes: &[u8]) {
        let at = 2 * self.page + position % SIZE;
        self.file.write_all_at(bytes, at).unwrap();
        self.file.write_all_at(bytes, at + SIZE).unwrap();
    }

    fn consumed(&self) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_le_bytes(bytes)
    }
}

struct Log(LogReader);

impl Log {
    fn new() -> (LogWriter, Self) {
        let file = memory();
        let writer = LogWriter::open(file.as_raw_fd(), Some(1024)).unwrap();
        (writer, Self(LogReader::open(file.as_raw_fd()).unwrap()))
    }

    fn starts(&mut self) -> Vec<u64> {
        let mut starts = Vec::new();
        let take = |read: Read| {
            if let Read::Records(records) = read {
                starts.extend(records.iter().map(|record| Event::read(record).start_ns));
            }
        };
        self.0.poll(take).unwrap();
        starts
    }
}

const WHOLE: u32 = RECORD_SIZE as u32;

#[test]
fn a_record_that_is_being_written_is_waited_for() {
    let mut kernel = Kernel::new();
    let (mut writer, mut log) = Log::new();
    let mut ring = Ring::new(kernel.file.as_raw_fd(), SIZE).unwrap();
    kernel.write(WHOLE, 1);
    let busy = kernel.write(WHOLE | BUSY, 2);
    kernel.write(WHOLE, 3);
    let drained = ring.drain(&mut writer);
    assert_eq!((drained.moved, drained.caught_up), (1, false));
    assert_eq!(kernel.consumed(), busy);
    assert_eq!(ring.drain(&mut writer), Drained::default());
    kernel.put(busy, &WHOLE.to_le_bytes());
    let drained = ring.drain(&mut writer);
    assert_eq!((drained.moved, drained.caught_up), (2, true));
    assert_eq!(kernel.consumed(), kernel.produced);
    assert_eq!(log.starts(), [1, 2, 3]);
}

#[test]
fn the_ring_is_read_round_and_round() {
    let mut kernel = Kernel::new();
    let (mut writer, mut log) = Log::new();
    let mut ring = Ring::new(kernel.file.as_raw_fd(), SIZE).unwrap();
    for n in 0..500 {
        kernel.write(WHOLE, n);
        assert!(ring.drain(&mut writer).caught_up);
    }
    assert_eq!(log.starts(), (0..500).collect::<Vec<_>>());
}

#[test]
fn a_length_that_cannot_be_is_not_followed() {
    let mut kernel = Kernel::new();
    let (mut writer, mut log) = Log::new();
    let mut ring = Ring::new(kernel.file.as_raw_fd(), SIZE).unwrap();
    kernel.write(WHOLE, 1);
    let bad = kernel.write(!BUSY & !DISCARDED, 2);
    let drained = ring.drain(&mut writer);
    assert_eq!((drained.moved, drained.caught_up), (1, false));
    assert_eq!(kernel.consumed(), bad);
    assert_eq!(log.starts(), [1]);
}
