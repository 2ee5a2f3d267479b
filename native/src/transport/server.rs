//! All listeners, on one thread; what they share; start and stop.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout_at};

use super::callbacks::{Callbacks, NoAnswer};
use super::counters::Counters;
use super::files::{FromFiles, Look};
use super::health::Health;
use super::limits::Limits;
use super::listener::{self, Inherited, Service};
use super::under_way::UnderWay;
use crate::queue::Queue;

/// What a person should hear of, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    CannotAccept,
    Reloaded,
    CannotReload,
}

pub type Told = dyn Fn(Event, String) + Send + Sync;

/// What all connections share.
/// A third of the weight of others.
const NICENESS: libc::c_int = 5;

pub struct Shared {
    /// None: no spans are taken.
    pub queue: Option<Arc<Queue>>,
    pub limits: Limits,
    pub counters: Counters,
    pub health: Arc<Health>,
    pub under_way: Arc<UnderWay>,
    callbacks: Callbacks,
    told: Arc<Told>,
}

impl Shared {
    /// What Python answers; None from `job` means that it failed.
    pub async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let answer = self.callbacks.ask(self.limits.callback_timeout, job).await;
        match answer {
            Err(NoAnswer::Busy) => self.counters.callbacks_refused.add(1),
            Err(NoAnswer::Late) => self.counters.callbacks_late.add(1),
            _ => {}
        }
        answer
    }

    /// Said on the thread of the callbacks. Where that is busy nobody hears of it; it is counted anyway.
    pub fn tell(&self, event: Event, what: String) {
        let told = self.told.clone();
        self.callbacks.post(move || told(event, what));
    }
}

pub struct Server {
    pub shared: Arc<Shared>,
    ending: watch::Sender<Option<Instant>>,
    state: Mutex<State>,
}

enum State {
    New(Vec<(Inherited, Service)>),
    Running(JoinHandle<()>),
    Over,
}

/// It was started, or stopped, before.
#[derive(Debug)]
pub struct TooLate;

impl Server {
    pub fn new(queue: Option<Arc<Queue>>, limits: Limits, told: Arc<Told>) -> Self {
        let shared = Shared {
            queue,
            counters: Counters::default(),
            health: Arc::new(Health::new(limits.health_holds, limits.max_watchers)),
            under_way: UnderWay::new(limits.max_bytes_under_way),
            callbacks: Callbacks::default(),
            told,
            limits,
        };
        let state = Mutex::new(State::New(Vec::new()));
        Self { shared: Arc::new(shared), ending: watch::Sender::new(None), state }
    }

    pub fn listen(&self, bound: Inherited, service: Service) -> Result<(), TooLate> {
        match &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::New(listeners) => {
                listeners.push((bound, service));
                Ok(())
            }
            State::Running(_) | State::Over => Err(TooLate),
        }
    }

    /// Connections are taken when this returns.
    pub fn start(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State::New(listeners) = &mut *state else {
            return Err(io::Error::other("a server can be started once"));
        };
        let listeners = std::mem::take(listeners);
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(4) // for files that are looked at, each of which may hang, and large requests in JSON
            .build()?;
        self.shared.callbacks.start(self.shared.limits.max_callbacks)?;
        let (shared, ending) = (self.shared.clone(), self.ending.subscribe());
        let mut open = Vec::with_capacity(listeners.len());
        {
            let _within = runtime.enter();
            for (bound, service) in listeners {
                open.push((bound.open()?, Arc::new(service)));
            }
        }
        let work = move || {
            yield_to_others();
            runtime.block_on(run(open, shared, ending));
            // A file that cannot be read, as of a server that is gone, is not waited for.
            runtime.shutdown_background();
        };
        *state = State::Running(thread::Builder::new().name("transport".into()).spawn(work)?);
        Ok(())
    }

    /// Takes nothing new from now on; what is under way has so much time. Blocks until all is over.
    pub fn stop(&self, grace: Duration) {
        let until = Instant::now() + grace;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.ending.send_replace(Some(until));
        if let State::Running(thread) = std::mem::replace(&mut *state, State::Over) {
            // It panics nowhere; and if so, it is over.
            let _ = thread.join();
        }
        self.shared.callbacks.stop(until.saturating_duration_since(Instant::now()));
    }
}

/// Where the processor is short, what was accepted goes before what is still coming: it would only wait here, in
/// memory that is cold by then, and with evidence that grows old. Senders wait instead.
fn yield_to_others() {
    // SAFETY: it takes numbers alone, and on Linux concerns the calling thread.
    // If it fails all have the same part of the processor, as by default.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

async fn run(
    listeners: Vec<(listener::Listener, Arc<Service>)>,
    shared: Arc<Shared>,
    mut ending: watch::Receiver<Option<Instant>>,
) {
    let (alive, mut all_ended) = mpsc::channel::<()>(1);
    for (listener, service) in listeners {
        if let Some(files) = service.tls.clone() {
            tokio::spawn(look_after(files, shared.clone()));
        }
        if let Some(file) = service.tokens.file.clone() {
            tokio::spawn(look_after(file, shared.clone()));
        }
        tokio::spawn(listener::run(listener, service, shared.clone(), ending.clone(), alive.clone()));
    }
    drop(alive);
    let until = loop {
        if let Some(until) = *ending.borrow_and_update() {
            break until;
        }
        if ending.changed().await.is_err() {
            return;
        }
    };
    // Whether or not all have ended: dropping the runtime cuts what is left.
    let _ = timeout_at(until.into(), all_ended.recv()).await;
}

async fn look_after<T: Send + Sync + 'static>(files: Arc<FromFiles<T>>, shared: Arc<Shared>) {
    loop {
        sleep(files.interval).await;
        let looked = files.clone();
        let Ok(look) = tokio::task::spawn_blocking(move || looked.look()).await else { return };
        match look {
            Look::Same => {}
            Look::Reloaded => {
                shared.counters.reloads.add(1);
                shared.tell(Event::Reloaded, files.paths[0].display().to_string());
            }
            Look::Unfit(reason) => {
                shared.counters.failed_reloads.add(1);
                shared.tell(Event::CannotReload, reason);
            }
        }
    }
}
