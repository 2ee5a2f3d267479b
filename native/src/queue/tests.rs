use super::*;
use crate::wire::tests::request;

fn queue(requests: usize, bytes: usize) -> Queue {
    Queue::new(Bounds { requests, bytes, body_bytes: 4 << 20, answers_late: false })
}

fn offer(queue: &Queue, body: &[u8], peer: &str) -> u32 {
    match queue.offer(Bytes::copy_from_slice(body), &Arc::from(peer)) {
        Offered::Answered(answer) => answer.code,
        Offered::Waiting(_) => panic!("it should be answered at once"),
    }
}

#[test]
fn what_has_come_is_joined_and_scans_as_if_it_had_come_as_one() {
    let queue = queue(10, 1 << 20);
    let bodies = [request(&[2, 1]), request(&[0, 3]), request(&[1])];
    for (body, peer) in bodies.iter().zip(["a", "b", "b"]) {
        assert_eq!(offer(&queue, body, peer), code::OK);
    }
    let (entry, scan) = queue.take_new(Duration::ZERO, 1 << 20).pop().unwrap();
    let whole = bodies.concat();
    assert_eq!(entry.body().unwrap(), whole);
    assert_eq!(scan, wire::scan(&whole).unwrap());
    assert_eq!(entry.peers, [(0, Arc::from("a")), (3, Arc::from("b"))]);
    assert_eq!((entry.requests, entry.spans()), (3, 7));
}

#[test]
fn nothing_is_joined_beyond_the_size_and_a_larger_request_stands_alone() {
    let queue = queue(10, 1 << 20);
    let (small, large) = (request(&[1]), request(&[40]));
    for body in [&small, &small, &large, &small] {
        offer(&queue, body, "a");
    }
    let entries = queue.take_new(Duration::ZERO, 2 * small.len());
    let spans: Vec<u64> = entries.iter().map(|(entry, _)| entry.spans()).collect();
    assert_eq!(spans, [2, 40, 1]);
}

#[test]
fn places_are_taken_from_admission_to_release_and_follow_the_size_of_the_body() {
    let body = request(&[1]);
    let queue = queue(2, 1 << 20);
    assert_eq!([offer(&queue, &body, "a"), offer(&queue, &body, "a")], [code::OK; 2]);
    assert_eq!(offer(&queue, &body, "a"), code::UNAVAILABLE);
    let (entry, _) = queue.take_new(Duration::ZERO, 1 << 20).pop().unwrap();
    entry.set_body(Some(Bytes::from(vec![0; 1000])));
    queue.put(vec![entry]);
    assert_eq!(queue.statistics(), Statistics { requests: 2, bytes: 1000, spans: 2, ready: 1 });
    assert_eq!(offer(&queue, &body, "a"), code::UNAVAILABLE);
    let taken = queue.take(1, Some(Duration::ZERO));
    assert_eq!(queue.statistics().ready, 0);
    queue.release(&taken);
    assert_eq!(queue.statistics(), Statistics { requests: 0, bytes: 0, spans: 0, ready: 0 });
    assert_eq!(offer(&queue, &body, "a"), code::OK);
    assert_eq!(queue.counters.refused_spans(Outcome::Busy), 2);
    assert_eq!(queue.counters.accepted_spans(), 3);
}

#[test]
fn an_empty_queue_takes_a_request_of_any_size() {
    let queue = queue(10, 10);
    let body = request(&[2]);
    assert_eq!(offer(&queue, &body, "a"), code::OK);
    assert_eq!(offer(&queue, &body, "a"), code::UNAVAILABLE);
}

#[test]
fn what_is_sampled_out_is_counted_until_the_rest_is_put_or_released() {
    let queue = queue(2, 1 << 20);
    for _ in 0..2 {
        offer(&queue, &request(&[3]), "a");
    }
    let taken = queue.take_new(Duration::ZERO, 0);
    let [(kept, _), (emptied, _)] = <[_; 2]>::try_from(taken).ok().unwrap();
    kept.sampled_out(2);
    emptied.sampled_out(3);
    assert_eq!((kept.spans(), emptied.spans(), queue.statistics().spans), (1, 0, 6));
    queue.put(vec![kept]);
    assert_eq!(queue.statistics().spans, 4);
    queue.release(&[emptied]);
    assert_eq!(queue.statistics().spans, 1);
    queue.release(&queue.take(1, Some(Duration::ZERO)));
    assert_eq!(queue.statistics(), Statistics { requests: 0, bytes: 0, spans: 0, ready: 0 });
}

#[test]
fn what_nobody_can_use_is_refused_and_a_request_without_spans_is_none() {
    let queue = queue(10, 1 << 20);
    assert_eq!(offer(&queue, b"\xff", "a"), code::INVALID_ARGUMENT);
    assert_eq!(offer(&queue, &vec![0; (4 << 20) + 1], "a"), code::RESOURCE_EXHAUSTED);
    let empty_spans = [&[0x0a, 0x84, 0x80, 0x30, 0x12, 0x80, 0x80, 0x30][..], &[0x12, 0][..]].concat();
    assert_eq!(offer(&queue, &empty_spans, "a"), code::INVALID_ARGUMENT);
    assert_eq!(offer(&queue, b"", "a"), code::OK);
    assert!(queue.take_new(Duration::ZERO, 1 << 20).is_empty());
    assert_eq!(queue.counters.requests(Outcome::Accepted), 1);
    assert_eq!(queue.counters.requests(Outcome::Malformed), 2);
}

#[test]
fn what_is_taken_together_has_the_size_asked_for_but_always_one() {
    let queue = queue(10, 1 << 20);
    let body = request(&[1]);
    for _ in 0..3 {
        offer(&queue, &body, "a");
    }
    let entries = queue.take_new(Duration::ZERO, 0);
    queue.put(entries.into_iter().map(|(entry, _)| entry).collect());
    assert_eq!(queue.take(2 * body.len(), None).len(), 2);
    assert_eq!(queue.take(0, None).len(), 1);
    assert!(queue.take(0, Some(Duration::ZERO)).is_empty());
    queue.close();
    assert!(queue.take(0, None).is_empty());
    assert!(queue.is_finished());
}

#[test]
fn late_answers_come_with_the_release_or_before() {
    let bounds = Bounds { requests: 10, bytes: 1 << 20, body_bytes: 1 << 20, answers_late: true };
    let queue = Queue::new(bounds);
    let offered = [(); 3].map(|()| match queue.offer(Bytes::from(request(&[1])), &Arc::from("a")) {
        Offered::Waiting(answer) => answer,
        Offered::Answered(_) => panic!("it should wait"),
    });
    let [mut first, mut second, mut third] = offered;
    let entries: Vec<Arc<Entry>> =
        queue.take_new(Duration::ZERO, 0).into_iter().map(|(entry, _)| entry).collect();
    assert!(first.try_recv().is_err());
    let refusal = Answer { code: 7, message: "no".into(), retry_after_ns: Some(3) };
    entries[0].answer(&refusal);
    assert_eq!(first.try_recv(), Ok(refusal));
    queue.release(&entries[..2]);
    assert_eq!(second.try_recv(), Ok(Answer::ok()));
    drop(entries);
    assert_eq!(third.try_recv(), Err(oneshot::error::TryRecvError::Closed));
}

#[test]
fn what_was_stored_comes_back_under_its_number_and_by_itself() {
    let queue = queue(2, 1 << 20);
    let body = Bytes::from(request(&[1]));
    assert_eq!(queue.restore(body.clone(), 7), Ok(true));
    assert_eq!(queue.restore(body.clone(), 8), Ok(true));
    assert_eq!(queue.restore(body, 9), Ok(false));
    assert!(queue.restore(Bytes::from_static(b"\xff"), 9).is_err());
    let ids: Vec<i64> = queue.take_new(Duration::ZERO, 1 << 20).iter().map(|(entry, _)| entry.id()).collect();
    assert_eq!(ids, [7, 8]);
}

#[test]
fn who_waits_is_woken() {
    let queue = Arc::new(queue(2, 1 << 20));
    let waiting = std::thread::spawn({
        let queue = queue.clone();
        move || queue.take_new(Duration::from_secs(60), 0).len()
    });
    queue.wake();
    assert_eq!(waiting.join().unwrap(), 0);
    let sending = std::thread::spawn({
        let queue = queue.clone();
        move || queue.take(0, None).len()
    });
    queue.close();
    assert_eq!(sending.join().unwrap(), 0);
}
