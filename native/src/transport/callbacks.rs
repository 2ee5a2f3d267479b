//! What Python answers: on a thread of its own, one after the other, so that nobody who sends spans waits.

use std::sync::mpsc::{self, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Too many wait already, or the server is ending.
    Busy,
    Late,
    /// It raised an error.
    Failed,
}

#[derive(Default)]
pub struct Callbacks {
    running: Mutex<Option<(SyncSender<Job>, JoinHandle<()>)>>,
}

impl Callbacks {
    pub fn start(&self, backlog: usize) -> std::io::Result<()> {
        let (sender, jobs) = mpsc::sync_channel::<Job>(backlog);
        let work = move || jobs.into_iter().for_each(|job| job());
        let thread = thread::Builder::new().name("transport-calls".into()).spawn(work)?;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((sender, thread));
        Ok(())
    }

    /// False where there is no room for it.
    pub fn post(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().is_some_and(|(sender, _)| sender.try_send(Box::new(job)).is_ok())
    }

    /// What `job` returns. None from it means that it failed.
    pub async fn ask<T: Send + 'static>(
        &self,
        deadline: Duration,
        job: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let (sender, answer) = oneshot::channel();
        let posted = self.post(move || {
            // Nobody may be there to hear it any more: then nothing need be done.
            if !sender.is_closed() {
                let _ = sender.send(job());
            }
        });
        if !posted {
            return Err(NoAnswer::Busy);
        }
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(Some(found))) => Ok(found),
            Ok(Ok(None)) => Err(NoAnswer::Failed),
            Ok(Err(_)) => Err(NoAnswer::Busy),
            Err(_) => Err(NoAnswer::Late),
        }
    }

    /// Takes no more, and waits for what is under way, but no longer than `patience`.
    pub fn stop(&self, patience: Duration) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((sender, thread)) = running else { return };
        drop(sender);
        let until = Instant::now() + patience;
        while !thread.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}
