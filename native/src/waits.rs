//! Blocked system calls, by the goroutine that was blocked (by the process, where goroutines are not known),
//! each goroutine's in the order of their ends.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::hash::Hashed;
use crate::prefetch::prefetch;
use crate::records::{Event, EVENT_WAIT, EVENT_WAIT_GOING_ON};

/// Process and goroutine; 0 for all that have none.
pub type Owner = (u32, u64);

/// Until when a wait blocks, as far as is known.
#[inline]
pub fn reach_ns(wait: &Event) -> u64 {
    if is_going_on(wait) {
        u64::MAX
    } else {
        wait.end_ns
    }
}

#[inline]
pub fn is_going_on(wait: &Event) -> bool {
    wait.kind == EVENT_WAIT_GOING_ON
}

/// Whether both are reports of one wait: it is sent while it goes on, when it is over, and again, longer,
/// when it turns out not to have been over.
fn is_same(one: &Event, other: &Event) -> bool {
    one.start_ns == other.start_ns && one.fd == other.fd && has_same_runner(one, other)
}

/// Whether both were of one goroutine or, where that is not known, one thread: these do one thing at a time.
fn has_same_runner(one: &Event, other: &Event) -> bool {
    one.goid == other.goid && (one.goid != 0 || one.tid == other.tid)
}

/// The waits of one owner.
#[derive(Clone, Copy, Default)]
pub struct OwnWaits<'a>(Option<&'a VecDeque<Event>>);

impl<'a> OwnWaits<'a> {
    /// Those that reach beyond this time, by their ends. Those that start too late are the caller's to leave
    /// out.
    #[inline]
    pub fn reaching(self, after_ns: u64) -> impl Iterator<Item = &'a Event> + Clone {
        let from = self.0.map_or(0, |waits| waits.partition_point(|wait| reach_ns(wait) <= after_ns));
        self.0.into_iter().flat_map(move |waits| waits.range(from..))
    }
}

pub struct Waits {
    by_owner: HashMap<Owner, VecDeque<Event>, Hashed>,
    /// When each was last seen to block, about by time: what retention and the bound take first. One that was taken
    /// out of `by_owner` by something else is passed over.
    ends: VecDeque<(u64, Owner)>,
    /// Who has waits that go on. These are of use for the tails of spans, which are short, and their ends are told
    /// even if they themselves are forgotten: so they are held no longer than the others. Of a goroutine that has
    /// died while it waited, nobody tells an end.
    going_on: HashSet<Owner, Hashed>,
    len: usize,
    most: usize,
    pub forgotten: u64,
    /// Waits that ended up to this time may have been forgotten, for their age or for want of room.
    pub forgotten_until_ns: u64,
    /// Reports of going on that were taken back, as something else showed them to be over at an unknown time.
    pub contradicted: u64,
}

impl Waits {
    pub fn new(most: usize) -> Self {
        Self {
            by_owner: HashMap::default(),
            ends: VecDeque::new(),
            going_on: HashSet::default(),
            len: 0,
            most: most.max(1),
            forgotten: 0,
            forgotten_until_ns: 0,
            contradicted: 0,
        }
    }

    pub fn count(&self) -> usize {
        self.len
    }

    pub fn owners(&self) -> usize {
        self.by_owner.len()
    }

    pub fn owners_going_on(&self) -> usize {
        self.going_on.len()
    }

    #[inline]
    pub fn of(&self, owner: Owner) -> OwnWaits<'_> {
        let waits = self.by_owner.get(&owner);
        if let Some(last) = waits.and_then(|waits| waits.back()) {
            prefetch(last);
        }
        OwnWaits(waits)
    }

    pub fn insert(&mut self, owner: Owner, wait: Event) {
        if self.withdraw(owner, &wait) {
            return;
        }
        self.make_room();
        if is_going_on(&wait) {
            self.going_on.insert(owner);
        }
        self.ends.push_back((wait.end_ns, owner));
        let waits = self.by_owner.entry(owner).or_insert_with(|| VecDeque::with_capacity(1));
        let at = waits.partition_point(|other| reach_ns(other) <= reach_ns(&wait));
        waits.insert(at, wait);
        self.len += 1;
    }

    /// Takes out earlier reports of the same wait, and of going on in something else, which the start of this
    /// one shows to be over. True: what is known is newer than `wait`.
    pub fn withdraw(&mut self, owner: Owner, wait: &Event) -> bool {
        let Some(waits) = self.by_owner.get_mut(&owner) else { return false };
        // From the last end backwards; one that ended before this one began is not the same.
        for at in (0..waits.len()).rev() {
            let other = &waits[at];
            if reach_ns(other) < wait.start_ns {
                break;
            }
            if is_same(other, wait) {
                if is_going_on(wait) && wait.end_ns <= other.end_ns {
                    return true;
                }
            } else if is_going_on(other) && other.start_ns < wait.start_ns && has_same_runner(other, wait) {
                self.contradicted += 1;
            } else {
                continue;
            }
            waits.remove(at);
            self.len -= 1;
        }
        self.tidy(owner);
        false
    }

    /// The goroutine was at work at this time: what it was blocked in before is over.
    pub fn was_running(&mut self, owner: Owner, at_ns: u64) {
        if self.going_on.contains(&owner) {
            self.contradicted += self.drop_going_on(owner, |wait| wait.start_ns < at_ns);
        }
    }

    /// Evidence was lost, of this process or, for 0, of any: what was going on may be over.
    pub fn lost(&mut self, tgid: u32) {
        for owner in self.going_on_of(tgid) {
            self.contradicted += self.drop_going_on(owner, |_| true);
        }
    }

    /// The process has ended: what was going on in it ended then.
    pub fn process_ended(&mut self, tgid: u32, end_ns: u64) {
        for owner in self.going_on_of(tgid) {
            let Some(waits) = self.by_owner.get(&owner) else { continue };
            let over: Vec<Event> = waits.iter().filter(|wait| is_going_on(wait)).copied().collect();
            self.drop_going_on(owner, |_| true);
            for wait in over {
                let end_ns = end_ns.max(wait.end_ns);
                self.insert(owner, Event { kind: EVENT_WAIT, end_ns, ..wait });
            }
        }
    }

    /// Forgets what was last seen to block before this time.
    pub fn expire(&mut self, before_ns: u64) {
        while self.ends.front().is_some_and(|(end_ns, _)| *end_ns < before_ns) {
            self.forget_first();
        }
    }

    /// Gives back memory that is not needed now.
    pub fn shrink(&mut self) {
        self.by_owner.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Also for `ends`, where a wait that is sent again and again has more than one place.
    fn make_room(&mut self) {
        while self.len >= self.most || self.ends.len() >= 2 * self.most {
            self.forgotten += self.forget_first();
        }
    }

    fn forget_first(&mut self) -> u64 {
        let Some((end_ns, owner)) = self.ends.pop_front() else { return 0 };
        self.forgotten_until_ns = self.forgotten_until_ns.max(end_ns);
        let before = self.len;
        if self.going_on.contains(&owner) {
            self.drop_going_on(owner, |wait| wait.end_ns <= end_ns);
        }
        self.drop_ended(owner, end_ns);
        (before - self.len) as u64
    }

    fn going_on_of(&self, tgid: u32) -> Vec<Owner> {
        self.going_on.iter().filter(|owner| tgid == 0 || owner.0 == tgid).copied().collect()
    }

    fn drop_ended(&mut self, owner: Owner, until_ns: u64) {
        let Some(waits) = self.by_owner.get_mut(&owner) else { return };
        while waits.front().is_some_and(|wait| reach_ns(wait) <= until_ns) {
            waits.pop_front();
            self.len -= 1;
        }
        self.tidy(owner);
    }

    fn drop_going_on(&mut self, owner: Owner, is_over: impl Fn(&Event) -> bool) -> u64 {
        let Some(waits) = self.by_owner.get_mut(&owner) else { return 0 };
        let before = waits.len();
        waits.retain(|wait| !is_going_on(wait) || !is_over(wait));
        let dropped = before - waits.len();
        self.len -= dropped;
        self.tidy(owner);
        dropped as u64
    }

    /// After something was taken out: no empty lists, and `going_on` as it is.
    fn tidy(&mut self, owner: Owner) {
        let waits = self.by_owner.get(&owner);
        if !waits.and_then(|waits| waits.back()).is_some_and(is_going_on) {
            self.going_on.remove(&owner);
        }
        if waits.is_some_and(VecDeque::is_empty) {
            self.by_owner.remove(&owner);
        }
    }
}
