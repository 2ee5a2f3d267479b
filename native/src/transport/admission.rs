//! The one way into the queue, whichever protocol a request came by; every request is counted once.

use std::sync::Arc;

use bytes::Bytes;

use super::message::Refused;
use crate::queue::{Answer, Offered, Outcome, Queue};

/// A request that has begun. Where it ends before it is offered, its sender has gone.
pub struct Admission<'a> {
    queue: &'a Queue,
    counted: bool,
}

impl<'a> Admission<'a> {
    pub fn begin(queue: &'a Queue) -> Self {
        Self { queue, counted: false }
    }

    pub async fn offer(mut self, body: Bytes, peer: &Arc<str>) -> Answer {
        self.counted = true;
        match self.queue.offer(body, peer) {
            Offered::Answered(answer) => answer,
            Offered::Waiting(answer) => answer.await.unwrap_or_else(|_| Answer::shutting_down()),
        }
    }

    pub fn refuse(self, refused: Refused) -> Answer {
        self.count(refused.outcome);
        refused.answer
    }

    pub fn count(mut self, outcome: Outcome) {
        self.counted = true;
        self.queue.refused(outcome);
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if !self.counted {
            self.queue.refused(Outcome::Abandoned);
        }
    }
}
