use super::*;
use std::os::fd::FromRawFd;

fn memory() -> File {
    // SAFETY: makes a new descriptor, which the File then owns.
    unsafe { File::from_raw_fd(libc::memfd_create(c"log".as_ptr(), libc::MFD_ALLOW_SEALING)) }
}

fn records(from: u64, count: u64) -> Vec<Record> {
    (from..from + count).map(|n| Event { start_ns: n, end_ns: !n, ..Event::default() }.bytes()).collect()
}

#[derive(Debug, PartialEq)]
enum Seen {
    Number(u64),
    Overtaken(u64),
}
use Seen::{Number, Overtaken};

fn poll(reader: &mut LogReader) -> Vec<Seen> {
    let mut seen = Vec::new();
    reader
        .poll(|read| match read {
            Read::Overtaken(count) => seen.push(Overtaken(count)),
            Read::Heartbeat { .. } => {}
            Read::Records(records) => {
                for event in records.iter().map(Event::read) {
                    assert_eq!(event.end_ns, !event.start_ns, "torn");
                    seen.push(Number(event.start_ns));
                }
            }
        })
        .unwrap();
    seen
}

fn numbers(from: u64, to: u64) -> Vec<Seen> {
    (from..to).map(Number).collect()
}

#[test]
fn what_is_written_is_read_once_and_in_order() {
    let file = memory();
    let mut writer = LogWriter::open(file.as_raw_fd(), Some(16)).unwrap();
    let mut reader = LogReader::open(file.as_raw_fd()).unwrap();
    assert_eq!(poll(&mut reader), []);
    writer.append(&records(0, 10));
    assert_eq!(poll(&mut reader), numbers(0, 10));
    writer.append(&records(10, 10)); // around the end of the memory
    assert_eq!(poll(&mut reader), numbers(10, 20));
    assert_eq!(poll(&mut reader), []);
    assert_eq!(writer.position(), 20);
}

#[test]
fn a_reader_that_was_overtaken_knows_by_how_many() {
    let file = memory();
    let mut writer = LogWriter::open(file.as_raw_fd(), Some(16)).unwrap();
    let mut reader = LogReader::open(file.as_raw_fd()).unwrap();
    writer.append(&records(0, 1000));
    let mut expected = vec![Overtaken(984)];
    expected.extend(numbers(984, 1000));
    assert_eq!(poll(&mut reader), expected);
    assert!(!reader.began_late());
}

#[test]
fn a_late_reader_begins_with_the_oldest_record_there_is() {
    let file = memory();
    let mut writer = LogWriter::open(file.as_raw_fd(), Some(16)).unwrap();
    writer.append(&records(0, 20));
    let mut reader = LogReader::open(file.as_raw_fd()).unwrap();
    assert!(reader.began_late());
    assert_eq!(poll(&mut reader), numbers(4, 20));
}

#[test]
fn a_new_writer_goes_on_where_the_last_one_stopped() {
    let file = memory();
    let mut writer = LogWriter::open(file.as_raw_fd(), Some(16)).unwrap();
    let mut reader = LogReader::open(file.as_raw_fd()).unwrap();
    writer.append(&records(0, 3));
    writer.heartbeat(77, 66);
    drop(writer);
    let mut writer = LogWriter::open(file.as_raw_fd(), None).unwrap();
    assert_eq!((writer.epoch(), writer.position(), writer.last_heartbeat_ns()), (2, 4, 77));
    writer.append(&records(4, 1));
    let mut kinds = Vec::new();
    let take = |read: Read<'_>| {
        if let Read::Records(records) = read {
            kinds.extend(records.iter().map(|record| Event::read(record).kind));
        }
    };
    reader.poll(take).unwrap();
    assert_eq!(kinds, [0, 0, 0, EVENT_HEARTBEAT, 0]);
}

#[test]
fn heartbeats_alone_fill_no_records_and_are_read_all_the_same() {
    let file = memory();
    let mut writer = LogWriter::open(file.as_raw_fd(), Some(16)).unwrap();
    let mut reader = LogReader::open(file.as_raw_fd()).unwrap();
    writer.append(&records(0, 1));
    for time_ns in 1..=1000 {
        writer.heartbeat(time_ns, time_ns - 1);
    }
    assert_eq!(writer.position(), 2);
    let mut last = None;
    let take = |read: Read<'_>| {
        if let Read::Heartbeat { watermark_ns, going_on_ns } = read {
            last = Some((watermark_ns, going_on_ns));
        }
    };
    reader.poll(take).unwrap();
    assert_eq!(last, Some((1000, 999)));
}

#[test]
fn what_a_dead_writer_was_overwriting_is_lost_and_nothing_else() {
    let file = memory();
    let mut writer = LogWriter::open(file.as_raw_fd(), Some(16)).unwrap();
    let mut reader = LogReader::open(file.as_raw_fd()).unwrap();
    writer.append(&records(0, 16));
    // It dies after it has reserved two slots and torn one of them.
    writer.shared.header(AT_RESERVED).store(18, Ordering::Relaxed);
    writer.shared.record(16)[0].store(99, Ordering::Relaxed);
    drop(writer);
    let mut expected = vec![Overtaken(2)];
    expected.extend(numbers(2, 16));
    assert_eq!(poll(&mut reader), expected);
    let mut writer = LogWriter::open(file.as_raw_fd(), Some(16)).unwrap();
    assert_eq!(writer.position(), 16);
    writer.append(&records(16, 3));
    assert_eq!(poll(&mut reader), numbers(16, 19));
}

#[test]
fn a_busy_writer_never_shows_a_torn_record() {
    const COUNT: u64 = 200_000;
    let file = memory();
    let mut writer = LogWriter::open(file.as_raw_fd(), Some(64)).unwrap();
    let mut reader = LogReader::open(file.as_raw_fd()).unwrap();
    let writing = std::thread::spawn(move || {
        for n in (0..COUNT).step_by(8) {
            writer.append(&records(n, 8));
        }
    });
    let mut next = 0;
    let mut lost = 0;
    while next < COUNT {
        for seen in poll(&mut reader) {
            match seen {
                Number(number) => {
                    assert_eq!(number, next);
                    next += 1;
                }
                Overtaken(count) => {
                    lost += count;
                    next += count;
                }
            }
        }
    }
    writing.join().unwrap();
    assert!(lost < COUNT);
}

#[test]
fn the_memory_cannot_shrink_any_more() {
    let file = memory();
    let _writer = LogWriter::open(file.as_raw_fd(), Some(16)).unwrap();
    assert!(file.set_len(0).is_err());
}

#[test]
fn what_is_not_a_log_is_refused() {
    let other = memory();
    assert!(matches!(LogWriter::open(other.as_raw_fd(), None), Err(LogError::Malformed(_))));
    assert!(matches!(LogWriter::open(other.as_raw_fd(), Some(0)), Err(LogError::Malformed(_))));
    other.set_len(10_000).unwrap();
    assert!(matches!(LogReader::open(other.as_raw_fd()), Err(LogError::Malformed(_))));
    other.set_len(size_of_log(8)).unwrap();
    assert!(matches!(LogReader::open(other.as_raw_fd()), Err(LogError::Malformed(_))));
    let log = memory();
    let writer = LogWriter::open(log.as_raw_fd(), Some(16)).unwrap();
    assert!(matches!(LogWriter::open(log.as_raw_fd(), Some(32)), Err(LogError::Malformed(_))));
    writer.shared.header(AT_VERSION).store(0, Ordering::Relaxed);
    assert!(matches!(LogReader::open(log.as_raw_fd()), Err(LogError::Malformed(_))));
    assert!(matches!(LogReader::open(-1), Err(LogError::Io(_))));
}

#[test]
fn no_header_makes_a_reader_leave_its_mapping() {
    for reserved in [0, 1, 16, 17, 1 << 40, i64::MAX as u64, u64::MAX] {
        for written in [0, 1, 16, 17, 1 << 40, i64::MAX as u64, u64::MAX] {
            let file = memory();
            let mut writer = LogWriter::open(file.as_raw_fd(), Some(16)).unwrap();
            let mut reader = LogReader::open(file.as_raw_fd()).unwrap();
            writer.append(&records(0, 16));
            writer.shared.header(AT_RESERVED).store(reserved, Ordering::Relaxed);
            writer.shared.header(AT_WRITTEN).store(written, Ordering::Relaxed);
            let mut handed_on = 0;
            let result = reader.poll(|read| {
                if let Read::Records(records) = read {
                    handed_on += records.len();
                }
            });
            assert!(handed_on <= 16, "{reserved} {written}");
            assert!(result.is_ok() || reserved < written || reserved > i64::MAX as u64);
        }
    }
}
