//! What the server counts of itself.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$meaning:meta])* $name:ident,)*) => {
        #[derive(Default)]
        pub struct Counters {
            $($(#[$meaning])* pub $name: Count,)*
        }

        impl Counters {
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.now()),)*]
            }
        }
    };
}

counters! {
    /// Connections as of now; goes down, too.
    connections,
    connections_accepted,
    /// Beyond those that a listener may have.
    connections_refused,
    /// That did not say in time, or in words of HTTP, what they want.
    connections_failed,
    /// Of the system: out of descriptors, for example.
    accept_failures,
    tls_failures,
    grpc_requests,
    http_requests,
    page_requests,
    control_requests,
    health_requests,
    /// Methods and paths that are not there.
    unknown_requests,
    /// Of messages that were taken as they came over the line, and as they are without compression.
    received_bytes,
    decoded_bytes,
    /// Messages that were still coming, given up as others needed their room.
    stalled_messages,
    slow_messages,
    callbacks_refused,
    callbacks_late,
    reloads,
    failed_reloads,
}

#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn remove(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
