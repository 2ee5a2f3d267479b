//! Messages that are still coming, over all connections: together they may take so much memory and no more.
//!
//! Where there is no room for another, those that have stood still for a while are given up: otherwise a few
//! senders that stop halfway could keep all others out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A sender that has a window to send into needs less between two pieces.
const STANDS_STILL_AFTER: Duration = Duration::from_millis(250);

pub struct UnderWay {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    bytes: usize,
    messages: Vec<Option<Message>>,
    free: Vec<usize>,
}

struct Message {
    bytes: usize,
    moved: Instant,
    give_up: Arc<Notify>,
}

/// There is no room; so many others were given up to make some.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRoom {
    pub given_up: usize,
}

impl UnderWay {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, inner: Mutex::default() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn bytes(&self) -> usize {
        self.inner().bytes
    }

    /// A message that has begun, and takes nothing yet.
    pub fn begin(self: &Arc<Self>) -> Coming {
        let give_up = Arc::new(Notify::new());
        let message = Message { bytes: 0, moved: Instant::now(), give_up: give_up.clone() };
        let mut inner = self.inner();
        let at = match inner.free.pop() {
            Some(at) => {
                inner.messages[at] = Some(message);
                at
            }
            None => {
                inner.messages.push(Some(message));
                inner.messages.len() - 1
            }
        };
        Coming { all: self.clone(), at, give_up }
    }
}

/// One message on its way; its room is free again when this is dropped.
pub struct Coming {
    all: Arc<UnderWay>,
    at: usize,
    give_up: Arc<Notify>,
}

impl Coming {
    /// It takes `bytes` now, and has moved.
    pub fn takes(&self, bytes: usize) -> Result<(), NoRoom> {
        let now = Instant::now();
        let mut inner = self.all.inner();
        let inner = &mut *inner;
        let message = inner.messages[self.at].as_mut().expect("it is there until it is dropped");
        message.moved = now;
        let others = inner.bytes - message.bytes;
        if others + bytes > self.all.limit {
            return Err(NoRoom { given_up: give_up_those_standing_still(inner, self.at, now) });
        }
        message.bytes = bytes;
        inner.bytes = others + bytes;
        Ok(())
    }

    /// Resolves when its room is needed by others.
    pub async fn given_up(&self) {
        self.give_up.notified().await;
    }
}

fn give_up_those_standing_still(inner: &mut Inner, but: usize, now: Instant) -> usize {
    let mut given_up = 0;
    for (at, message) in inner.messages.iter().enumerate() {
        let Some(message) = message else { continue };
        if at != but && message.bytes > 0 && now - message.moved >= STANDS_STILL_AFTER {
            message.give_up.notify_one();
            given_up += 1;
        }
    }
    given_up
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut inner = self.all.inner();
        if let Some(message) = inner.messages[self.at].take() {
            inner.bytes -= message.bytes;
        }
        inner.free.push(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_free_again_when_a_message_has_come_or_gone() {
        let all = UnderWay::new(100);
        let (first, second) = (all.begin(), all.begin());
        assert_eq!(first.takes(60), Ok(()));
        assert_eq!(second.takes(50), Err(NoRoom { given_up: 0 }));
        assert_eq!(second.takes(40), Ok(()));
        drop(first);
        assert_eq!(second.takes(100), Ok(()));
        assert_eq!(all.bytes(), 100);
        drop(second);
        assert_eq!(all.bytes(), 0);
        assert_eq!(all.begin().at, 1); // a place that was used before
    }

    #[tokio::test]
    async fn what_stands_still_goes_when_its_room_is_needed() {
        let all = UnderWay::new(100);
        let (slow, moving) = (all.begin(), all.begin());
        slow.takes(60).unwrap();
        all.inner().messages[slow.at].as_mut().unwrap().moved -= STANDS_STILL_AFTER;
        moving.takes(30).unwrap();
        assert_eq!(moving.takes(50), Err(NoRoom { given_up: 1 }));
        slow.given_up().await;
    }
}
