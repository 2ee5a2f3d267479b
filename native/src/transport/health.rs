//! grpc.health.v1: what the program says of its services, and for how long that holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use tokio::sync::{mpsc, watch, Semaphore};

use super::connection::Call;
use super::reply::{self, Reply};
use super::status::{refusal, NOT_FOUND};
use crate::protobuf::{Reader, LENGTH};
use crate::queue::{code, Answer};
use crate::schema::HEALTH_CHECK_REQUEST;

pub const CHECK: &str = "/grpc.health.v1.Health/Check";
pub const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Requests hold a name.
pub const MAX_REQUEST_BYTES: usize = 4096;
const MAX_SERVICES: usize = 64;
/// That something no longer holds is seen by time passing.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// As in HealthCheckResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    Yes = 1,
    No = 2,
    Unknown = 3,
}

pub struct Health {
    holds: Duration,
    said: Mutex<HashMap<String, (bool, Instant)>>,
    changes: watch::Sender<()>,
    watchers: Arc<Semaphore>,
    max_watchers: usize,
}

impl Health {
    pub fn new(holds: Duration, max_watchers: usize) -> Self {
        Self {
            holds,
            said: Mutex::default(),
            changes: watch::Sender::new(()),
            watchers: Arc::new(Semaphore::new(max_watchers)),
            max_watchers,
        }
    }

    /// It is so from now on. False where there are too many services.
    pub fn say(&self, service: &str, serving: bool) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= MAX_SERVICES && !said.contains_key(service) {
            return false;
        }
        let before = said.insert(service.into(), (serving, Instant::now()));
        drop(said);
        if before.is_none_or(|(before, _)| before != serving) {
            self.changes.send_replace(());
        }
        true
    }

    pub fn of(&self, service: &str) -> Serving {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match said.get(service) {
            None => Serving::Unknown,
            Some((serving, at)) if *serving && at.elapsed() <= self.holds => Serving::Yes,
            Some(_) => Serving::No,
        }
    }

    pub fn check(&self, service: &str) -> Response<Reply> {
        match self.of(service) {
            Serving::Unknown => {
                reply::refused(&refusal(NOT_FOUND, format!("there is no service {service:?} here")))
            }
            serving => reply::message(&response(serving)),
        }
    }

    /// The state now, and each change, until the watcher goes or the server ends.
    pub fn watch(
        self: &Arc<Self>,
        service: String,
        mut ending: watch::Receiver<Option<Instant>>,
        call: Call,
    ) -> Response<Reply> {
        let Ok(place) = self.watchers.clone().try_acquire_owned() else {
            let message = format!("{} others watch already; use Check", self.max_watchers);
            return reply::refused(&refusal(code::RESOURCE_EXHAUSTED, message));
        };
        let (sender, messages) = mpsc::channel(2);
        let (health, mut changes) = (self.clone(), self.changes.subscribe());
        tokio::spawn(async move {
            let (_place, _call) = (place, call);
            let mut told = None;
            loop {
                let is_over = ending.borrow_and_update().is_some();
                let now = health.of(&service);
                if told != Some(now) {
                    let message: Result<Bytes, Answer> = Ok(reply::prefixed(&response(now)));
                    if sender.send(message).await.is_err() {
                        return;
                    }
                    told = Some(now);
                }
                if is_over {
                    return;
                }
                tokio::select! {
                    _ = changes.changed() => {}
                    _ = ending.changed() => {}
                    () = sender.closed() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        });
        reply::stream(messages)
    }
}

fn response(serving: Serving) -> [u8; 2] {
    [1 << 3, serving as u8]
}

/// The name in a HealthCheckRequest; the last of several.
pub fn service_of(request: &[u8]) -> Option<String> {
    let mut reader = Reader::new(request);
    let mut service = "";
    while !reader.is_at_end() {
        let (number, wire) = reader.tag().ok()?;
        if (number, wire) == (1, LENGTH) {
            service = std::str::from_utf8(reader.delimited().ok()?).ok()?;
        } else {
            reader.check(number, wire, &HEALTH_CHECK_REQUEST, 0).ok()?;
        }
    }
    Some(service.into())
}
