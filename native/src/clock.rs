//! What CLOCK_REALTIME was while CLOCK_MONOTONIC went on. Spans are stamped by the former, events by the latter; when
//! somebody sets the clock, a span from before keeps the offset of its own time.

use std::collections::VecDeque;

/// So far ahead of the last sample a time may lie and have come all the same.
const NEXT_SAMPLE_NS: u64 = 1_000_000_000;

/// Less is drift and the rounding of two readings; it shifts nothing that matters.
const LEAST_STEP_NS: u64 = 1_000_000;
const MOST_STEPS: usize = 64;

#[derive(Default)]
pub struct Clock {
    /// From when on, in monotonic time, which difference realtime - monotonic holds: by time, the last one up to now.
    offsets: VecDeque<(u64, i64)>,
    last_ns: u64,
}

impl Clock {
    pub fn sample(&mut self, monotonic_ns: u64, realtime_ns: u64) {
        let offset_ns = realtime_ns.wrapping_sub(monotonic_ns) as i64;
        self.last_ns = self.last_ns.max(monotonic_ns);
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

    /// Kernel time of a time of day: under the newest offset under which that time has come. If it has not come at all,
    /// under the newest one.
    #[inline]
    pub fn kernel_time_ns(&self, unix_ns: u64) -> u64 {
        let under = |offset_ns: i64| unix_ns.saturating_add_signed(-offset_ns);
        let mut until_ns = self.last_ns.saturating_add(NEXT_SAMPLE_NS);
        for (since_ns, offset_ns) in self.offsets.iter().rev() {
            let found = under(*offset_ns);
            if (*since_ns..=until_ns).contains(&found) {
                return found;
            }
            until_ns = *since_ns;
        }
        // Before the first sample, or not yet.
        let nearest = self.offsets.front().filter(|(since_ns, offset_ns)| under(*offset_ns) < *since_ns);
        nearest.or(self.offsets.back()).map_or(unix_ns, |(_, offset_ns)| under(*offset_ns))
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
        assert_eq!(clock.kernel_time_ns(1007 * S), 17 * S); // has come only once so far
        clock.sample(30 * S, 1015 * S);
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
