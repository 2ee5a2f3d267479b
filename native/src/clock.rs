//! What CLOCK_REALTIME was while CLOCK_MONOTONIC went on. Spans are stamped by the former, events by the latter; when
//! somebody sets the clock, a span from before keeps the offset of its own time.

use std::collections::VecDeque;

/// Less is drift and the rounding of two readings; it shifts nothing that matters.
const LEAST_STEP_NS: u64 = 1_000_000;
const MOST_STEPS: usize = 64;

#[derive(Default)]
pub struct Clock {
    /// From when on, in monotonic time, which difference realtime - monotonic holds: by time, the last one up to now.
    offsets: VecDeque<(u64, i64)>,
}

impl Clock {
    pub fn sample(&mut self, monotonic_ns: u64, realtime_ns: u64) {
        let offset_ns = realtime_ns.wrapping_sub(monotonic_ns) as i64;
        match self.offsets.back_mut() {
            Some((_, last_ns)) if last_ns.abs_diff(offset_ns) < LEAST_STEP_NS => *last_ns = offset_ns,
            _ => {
                if self.offsets.len() == MOST_STEPS {
                    self.offsets.pop_front();
                }
                self.offsets.push_back((monotonic_ns, offset_ns));
            }
        }
    }

    /// Kernel time of a time of day. The newest offset under which that time came at all is the one; before the first
    /// sample the first holds.
    #[inline]
    pub fn kernel_time_ns(&self, unix_ns: u64) -> u64 {
        let mut found = unix_ns;
        for (since_ns, offset_ns) in self.offsets.iter().rev() {
            found = unix_ns.saturating_add_signed(-offset_ns);
            if found >= *since_ns {
                break;
            }
        }
        found
    }

    /// Time of day at a kernel time.
    #[inline]
    pub fn unix_time_ns(&self, kernel_ns: u64) -> u64 {
        let held = self.offsets.iter().rev().find(|(since_ns, _)| *since_ns <= kernel_ns);
        let offset_ns = held.or(self.offsets.front()).map_or(0, |(_, offset_ns)| *offset_ns);
        kernel_ns.saturating_add_signed(offset_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn one_offset_holds_for_all_times() {
        let mut clock = Clock::default();
        clock.sample(10 * S, 1000 * S);
        assert_eq!(clock.kernel_time_ns(995 * S), 5 * S);
        assert_eq!(clock.kernel_time_ns(1005 * S), 15 * S);
        assert_eq!(clock.unix_time_ns(5 * S), 995 * S);
    }

    #[test]
    fn a_time_before_a_step_keeps_the_offset_of_then() {
        let mut clock = Clock::default();
        clock.sample(10 * S, 1000 * S);
        clock.sample(20 * S, 5010 * S); // set forward by 4000 s, somewhere after the sample at 10 s
        assert_eq!(clock.kernel_time_ns(1005 * S), 15 * S);
        assert_eq!(clock.kernel_time_ns(5011 * S), 21 * S);
        assert_eq!(clock.unix_time_ns(19 * S), 1009 * S);
        assert_eq!(clock.unix_time_ns(21 * S), 5011 * S);
    }

    #[test]
    fn of_a_time_that_came_twice_the_later_one_is_meant() {
        let mut clock = Clock::default();
        clock.sample(10 * S, 1000 * S);
        clock.sample(20 * S, 1005 * S); // set back by 5 s
        assert_eq!(clock.kernel_time_ns(1007 * S), 22 * S);
        assert_eq!(clock.kernel_time_ns(1004 * S), 14 * S);
    }

    #[test]
    fn drift_is_followed_and_takes_no_room() {
        let mut clock = Clock::default();
        for n in 0..1000 {
            clock.sample(n * S, n * S + 7 * S + n * 1000);
        }
        assert_eq!(clock.offsets.len(), 1);
        for n in 0..1000 {
            clock.sample(n * S, n * 3 * S);
        }
        assert_eq!(clock.offsets.len(), MOST_STEPS);
    }
}
