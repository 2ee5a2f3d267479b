//! Goroutines that were made inside spans, and spans that have spans inside: what is blocked there was waited for by
//! the outer span, too, if it was over in time.

use crate::recent::Recent;
use crate::records::Event;

const MOST: usize = 131_072;
/// A goroutine that is blocked again and again is noted again after this time, so that it is not forgotten.
const NOTED_AGAIN_NS: u64 = 1_000_000_000;

type Goroutine = (u32, u64);

/// A goroutine that was blocked, and when its line of makers left its root.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Made {
    pub at_ns: u64,
    pub goid: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpanKey {
    pub trace_id: [u8; 16],
    pub span_id: u64,
}

pub struct Lineage {
    made: Recent<Goroutine, Made>,
    children: Recent<u64, SpanKey>,
    exits: Recent<Goroutine, ()>,
}

impl Default for Lineage {
    fn default() -> Self {
        Self { made: Recent::new(MOST), children: Recent::new(MOST), exits: Recent::new(MOST) }
    }
}

impl Lineage {
    /// The goroutine of this wait was made, by however many others in between, inside a span of its root.
    pub fn take_wait(&mut self, wait: &Event) {
        if wait.root_goid == 0 {
            return;
        }
        let root = (wait.tgid, wait.root_goid);
        let made = Made { at_ns: wait.root_ns, goid: wait.goid };
        let is_noted = |(noted_ns, noted): &(u64, Made)| {
            *noted == made && noted_ns.saturating_add(NOTED_AGAIN_NS) > wait.end_ns
        };
        if !self.made.timed(&root).any(is_noted) {
            self.made.push(wait.end_ns, root, made);
        }
    }

    /// Goroutines that were made inside [start_ns, end_ns] of this one; some may be told more than once.
    #[inline]
    pub fn made_by(&self, root: Goroutine, start_ns: u64, end_ns: u64) -> impl Iterator<Item = Made> + '_ {
        self.made.of(&root).copied().filter(move |made| (start_ns..=end_ns).contains(&made.at_ns))
    }

    #[inline]
    pub fn has_made(&self, root: Goroutine) -> bool {
        self.made.has(&root)
    }

    pub fn exited(&mut self, goroutine: Goroutine, at_ns: u64) {
        self.exits.push(at_ns, goroutine, ());
    }

    /// None: it has not, as far as is known.
    pub fn exit_ns(&self, goroutine: Goroutine) -> Option<u64> {
        self.exits.last_ns(&goroutine)
    }

    /// A span with something to tell has ended inside this one.
    pub fn add_child(&mut self, parent_span_id: u64, child: SpanKey, end_ns: u64) {
        self.children.push(end_ns, parent_span_id, child);
    }

    #[inline]
    pub fn children_of(&self, span_id: u64) -> impl Iterator<Item = &SpanKey> {
        self.children.of(&span_id)
    }

    #[inline]
    pub fn has_children(&self, span_id: u64) -> bool {
        self.children.has(&span_id)
    }

    pub fn shrink(&mut self) {
        self.made.shrink();
        self.children.shrink();
        self.exits.shrink();
    }

    pub fn expire(&mut self, before_ns: u64) {
        self.made.expire(before_ns);
        self.children.expire(before_ns);
        self.exits.expire(before_ns);
    }

    pub fn forgotten_until_ns(&self) -> u64 {
        self.made.forgotten_until_ns.max(self.children.forgotten_until_ns)
    }

    pub fn forgotten(&self) -> u64 {
        self.made.forgotten + self.children.forgotten
    }
}
