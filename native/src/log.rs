//! The evidence log: a ring of fixed-width records in shared memory, with one writer and any number of
//! readers.
//!
//! Positions count records since the log was made, and never go back; record p lies in slot p % capacity.
//! Before the writer overwrites slots it publishes, as `reserved`, the position up to which it will write,
//! and when they are written, as `written`, the position up to which they can be read. So a reader who
//! copies records and then looks at `reserved` knows which of the copies may be torn, and if it was
//! overtaken, from where to where. Nobody waits for anybody. (A sequence lock for each slot would cost a
//! word and two fences a record, and tell no more.)
//!
//! A writer that dies between the two leaves slots torn that no reader takes, as `written` has not passed
//! them; the next writer goes on from `written`.
//!
//! The last heartbeat stands in the header. It is a record, too, where there were records since the one
//! before: then its place among them matters. Otherwise it is not, as heartbeats alone would touch the
//! whole ring within the hour, and all of it would be resident in every process that maps it.
//!
//! Readers trust nothing in the memory: whatever the header says, they read within their own mapping, and a
//! header that contradicts itself is an error.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{fence, AtomicU64, Ordering};

use crate::mapping::{duplicate, Access, Mapping};
use crate::records::{Event, EVENTS_VERSION, EVENT_HEARTBEAT, RECORD_SIZE};

pub type Record = [u8; RECORD_SIZE];

const MAGIC: u64 = u64::from_le_bytes(*b"evidence");
/// Of this layout and of the records, as either change makes the other side unreadable.
const VERSION: u64 = 1 << 32 | EVENTS_VERSION as u64;
const HEADER_SIZE: usize = 4096;
const WORDS_PER_RECORD: usize = RECORD_SIZE / 8;
/// 96 GiB; a limit only so that sizes cannot overflow.
const MAX_CAPACITY: u64 = 1 << 30;

// Words of the header. The positions have a cache line to themselves.
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 1;
const AT_RECORD_SIZE: usize = 2;
const AT_CAPACITY: usize = 3;
const AT_EPOCH: usize = 4;
const AT_RESERVED: usize = 8;
const AT_WRITTEN: usize = 9;
const AT_WATERMARK: usize = 16;
const AT_GOING_ON: usize = 17;

#[derive(Debug)]
pub enum LogError {
    Io(io::Error),
    /// The memory is not an evidence log of this version, or its header contradicts itself.
    Malformed(&'static str),
}

impl From<io::Error> for LogError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The mapped memory, with its size taken once: the header's own idea of it is never used again.
struct Shared {
    mapping: Mapping,
    capacity: u64,
}

impl Shared {
    /// Maps a log that exists. `capacity`: what it must be, or any.
    fn open(file: &File, capacity: Option<u64>, access: Access) -> Result<Self, LogError> {
        let size = file.metadata()?.len();
        let records = size.saturating_sub(HEADER_SIZE as u64) / RECORD_SIZE as u64;
        if records == 0 || size != size_of_log(records) || records > MAX_CAPACITY {
            return Err(LogError::Malformed("its size is not that of an evidence log"));
        }
        if capacity.is_some_and(|capacity| capacity != records) {
            return Err(LogError::Malformed("it exists with another capacity"));
        }
        let mapping = Mapping::new(file.as_fd(), 0, size as usize, access)?;
        Ok(Self { mapping, capacity: records })
    }

    fn header(&self, at: usize) -> &AtomicU64 {
        &self.mapping.words()[at]
    }

    fn check(&self) -> Result<(), LogError> {
        let expected = [MAGIC, VERSION, RECORD_SIZE as u64, self.capacity];
        for (at, value) in [AT_MAGIC, AT_VERSION, AT_RECORD_SIZE, AT_CAPACITY].into_iter().zip(expected) {
            // Acquire: the magic number is written last.
            if self.header(at).load(Ordering::Acquire) != value {
                return Err(LogError::Malformed("it is not an evidence log of this version"));
            }
        }
        Ok(())
    }

    /// Reserved and written position.
    fn positions(&self) -> Result<(u64, u64), LogError> {
        // Acquire: the records up to `written` are there.
        let written = self.header(AT_WRITTEN).load(Ordering::Acquire);
        let reserved = self.header(AT_RESERVED).load(Ordering::Relaxed);
        // The writer may have gone on between the two loads, but never further than it has reserved.
        if reserved < written || reserved > i64::MAX as u64 {
            return Err(LogError::Malformed("its positions contradict each other"));
        }
        Ok((reserved, written))
    }

    #[inline]
    fn record(&self, position: u64) -> &[AtomicU64; WORDS_PER_RECORD] {
        let slot = (position % self.capacity) as usize;
        let start = HEADER_SIZE / 8 + slot * WORDS_PER_RECORD;
        self.mapping.words()[start..].first_chunk().expect("the mapping holds `capacity` records")
    }
}

fn size_of_log(capacity: u64) -> u64 {
    HEADER_SIZE as u64 + capacity * RECORD_SIZE as u64
}

/// The one who writes. That there is only one is the caller's business.
pub struct LogWriter {
    shared: Shared,
    position: u64,
    /// Behind the last record of a heartbeat.
    heartbeat_position: Option<u64>,
}

impl LogWriter {
    /// Makes the log, if the file is empty, or goes on with the one that is there, which then must have this
    /// capacity (in records), if one is given.
    pub fn open(fd: i32, capacity: Option<u64>) -> Result<Self, LogError> {
        let file = duplicate(fd)?;
        if let (0, Some(capacity)) = (file.metadata()?.len(), capacity) {
            if !(1..=MAX_CAPACITY).contains(&capacity) {
                return Err(LogError::Malformed("a log has 1 to 2**30 records"));
            }
            file.set_len(size_of_log(capacity))?;
            seal_size(&file);
        }
        let shared = Shared::open(&file, capacity, Access::ReadWrite)?;
        if shared.header(AT_MAGIC).load(Ordering::Acquire) == 0 {
            // New, or its maker died before it was done.
            shared.header(AT_VERSION).store(VERSION, Ordering::Relaxed);
            shared.header(AT_RECORD_SIZE).store(RECORD_SIZE as u64, Ordering::Relaxed);
            shared.header(AT_CAPACITY).store(shared.capacity, Ordering::Relaxed);
            shared.header(AT_MAGIC).store(MAGIC, Ordering::Release);
        }
        shared.check()?;
        let (_, position) = shared.positions()?;
        shared.header(AT_EPOCH).fetch_add(1, Ordering::Relaxed);
        Ok(Self { shared, position, heartbeat_position: None })
    }

    /// How many records have been written since the log was made.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn capacity(&self) -> u64 {
        self.shared.capacity
    }

    /// How often the log has been opened for writing, this time included.
    pub fn epoch(&self) -> u64 {
        self.shared.header(AT_EPOCH).load(Ordering::Relaxed)
    }

    /// The watermark of the last heartbeat that any writer has written; 0: none.
    pub fn last_heartbeat_ns(&self) -> u64 {
        self.shared.header(AT_WATERMARK).load(Ordering::Relaxed)
    }

    pub fn append(&mut self, records: &[Record]) {
        // In parts, so that a reader who is close behind is not overtaken by one large reservation.
        let part = (self.shared.capacity / 8).max(1) as usize;
        for records in records.chunks(part) {
            self.append_part(records);
        }
    }

    fn append_part(&mut self, records: &[Record]) {
        let end = self.position + records.len() as u64;
        // A writer that died may have reserved further: what it tore must stay known as torn.
        self.shared.header(AT_RESERVED).fetch_max(end, Ordering::Relaxed);
        // Whoever sees one of the stores below sees the reservation after an acquire fence.
        fence(Ordering::Release);
        for (position, record) in (self.position..).zip(records) {
            for (word, bytes) in self.shared.record(position).iter().zip(record.as_chunks::<8>().0) {
                word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
            }
        }
        self.position = end;
        self.shared.header(AT_WRITTEN).store(end, Ordering::Release);
    }

    /// Promises that every event up to `watermark_ns` is in the log, and every wait that was going on at
    /// `going_on_ns`.
    pub fn heartbeat(&mut self, watermark_ns: u64, going_on_ns: u64) {
        if self.heartbeat_position != Some(self.position) {
            let kind = EVENT_HEARTBEAT;
            let event =
                Event { kind, start_ns: watermark_ns, end_ns: going_on_ns, fd: -1, ..Event::default() };
            self.append(&[event.bytes()]);
            self.heartbeat_position = Some(self.position);
        }
        // Release: who sees these sees every record they promise.
        self.shared.header(AT_GOING_ON).store(going_on_ns, Ordering::Release);
        self.shared.header(AT_WATERMARK).store(watermark_ns, Ordering::Release);
    }
}

/// Takes from everybody the power to shrink the memory under a reader's feet. Only memory that was made to be
/// sealed can be; a plain file, as a recording is, cannot.
fn seal_size(file: &File) {
    // SAFETY: a call on an open descriptor that touches no memory of ours. It may fail: see above.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) };
}

/// What a reader comes upon.
pub enum Read<'a> {
    /// One or more, in order.
    Records(&'a [Record]),
    /// The last heartbeat, after every record that it promises.
    Heartbeat { watermark_ns: u64, going_on_ns: u64 },
    /// So many records were overwritten before they could be read, between the one before and the one after.
    Overtaken(u64),
}

const READ_AT_ONCE: usize = 128;

pub struct LogReader {
    shared: Shared,
    next: u64,
    /// Records had been overwritten before this reader began.
    began_late: bool,
}

impl LogReader {
    /// Begins with the oldest record there is.
    pub fn open(fd: i32) -> Result<Self, LogError> {
        let shared = Shared::open(&duplicate(fd)?, None, Access::Read)?;
        shared.check()?;
        let (reserved, _) = shared.positions()?;
        let next = reserved.saturating_sub(shared.capacity);
        Ok(Self { shared, next, began_late: next > 0 })
    }

    pub fn began_late(&self) -> bool {
        self.began_late
    }

    /// Hands on everything that is new, in order.
    pub fn poll(&mut self, mut take: impl FnMut(Read)) -> Result<(), LogError> {
        let mut copies = [[0; RECORD_SIZE]; READ_AT_ONCE];
        // Before the positions: so every record that it promises is read below.
        let watermark_ns = self.shared.header(AT_WATERMARK).load(Ordering::Acquire);
        let going_on_ns = self.shared.header(AT_GOING_ON).load(Ordering::Acquire);
        // What is written meanwhile is for the next time: so a fast writer cannot keep us here.
        let (_, until) = self.shared.positions()?;
        if until < self.next {
            return Err(LogError::Malformed("its positions went back"));
        }
        while self.next < until {
            let count = (until - self.next).min(READ_AT_ONCE as u64) as usize;
            for (position, copy) in (self.next..).zip(&mut copies[..count]) {
                for (word, bytes) in self.shared.record(position).iter().zip(copy.as_chunks_mut::<8>().0) {
                    *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
                }
            }
            // If any of these loads saw a store of the writer, the next load sees its reservation.
            fence(Ordering::Acquire);
            let reserved = self.shared.header(AT_RESERVED).load(Ordering::Relaxed);
            let whole_from = reserved.saturating_sub(self.shared.capacity);
            let torn = whole_from.saturating_sub(self.next);
            if torn > 0 {
                take(Read::Overtaken(torn));
            }
            let whole = &copies[usize::try_from(torn).unwrap_or(count).min(count)..count];
            if !whole.is_empty() {
                take(Read::Records(whole));
            }
            self.next = whole_from.max(self.next + count as u64);
        }
        take(Read::Heartbeat { watermark_ns, going_on_ns });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
