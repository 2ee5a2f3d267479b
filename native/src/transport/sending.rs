//! The thread on which everything is sent: one, as a request costs some ten microseconds, and so that what a
//! backend can make us do takes one core at most. What costs more (compression, JSON) is done by the caller.

use std::sync::OnceLock;
use std::{io, thread};

use tokio::runtime::{Builder, Handle};

/// The runtime of the thread `sending`, which is started with the first use and lives as long as the process.
pub fn runtime() -> io::Result<&'static Handle> {
    static RUNTIME: OnceLock<Handle> = OnceLock::new();
    if let Some(handle) = RUNTIME.get() {
        return Ok(handle);
    }
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(8) // names are looked up there, and one that is not answered keeps its thread
        .thread_name("sending-names")
        .build()?;
    let handle = RUNTIME.get_or_init(|| runtime.handle().clone());
    if handle.id() == runtime.handle().id() {
        thread::Builder::new()
            .name("sending".into())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    }
    Ok(handle)
}
