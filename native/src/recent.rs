//! Things that happened to somebody, found by whom, and forgotten when they are old or too many.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::hash::Hashed;

pub struct Recent<K, V> {
    by_key: HashMap<K, VecDeque<(u64, V)>, Hashed>,
    /// One for each value, about by time. One whose value was taken out is passed over.
    order: VecDeque<(u64, K)>,
    most: usize,
    pub forgotten: u64,
    /// Values of up to this time were forgotten for want of room.
    pub forgotten_until_ns: u64,
}

impl<K: Hash + Eq + Copy, V> Recent<K, V> {
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { by_key: HashMap::default(), order: VecDeque::new(), most, forgotten: 0, forgotten_until_ns: 0 }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.order.len()
    }

    pub fn push(&mut self, at_ns: u64, key: K, value: V) {
        if self.order.len() >= self.most {
            if let Some(at_ns) = self.forget_first() {
                self.forgotten += 1;
                self.forgotten_until_ns = self.forgotten_until_ns.max(at_ns);
            }
        }
        self.order.push_back((at_ns, key));
        self.by_key.entry(key).or_default().push_back((at_ns, value));
    }

    /// In the order in which they came.
    #[inline]
    pub fn of(&self, key: &K) -> impl DoubleEndedIterator<Item = &V> {
        self.timed(key).map(|(_, value)| value)
    }

    /// The same, each with when it came.
    #[inline]
    pub fn timed(&self, key: &K) -> impl DoubleEndedIterator<Item = &(u64, V)> {
        let values = if self.by_key.is_empty() { None } else { self.by_key.get(key) };
        values.into_iter().flatten()
    }

    /// When the newest of this one came.
    pub fn last_ns(&self, key: &K) -> Option<u64> {
        self.by_key.get(key)?.back().map(|(at_ns, _)| *at_ns)
    }

    #[inline]
    pub fn has(&self, key: &K) -> bool {
        !self.by_key.is_empty() && self.by_key.contains_key(key)
    }

    /// Takes out those of one key that are wanted.
    pub fn take(&mut self, key: &K, is_wanted: impl Fn(&V) -> bool) -> Vec<V> {
        let Some(values) = self.by_key.get_mut(key) else { return vec![] };
        let (mut taken, mut left) = (vec![], VecDeque::new());
        for (at_ns, value) in values.drain(..) {
            if is_wanted(&value) {
                taken.push(value);
            } else {
                left.push_back((at_ns, value));
            }
        }
        if left.is_empty() {
            self.by_key.remove(key);
        } else {
            *values = left;
        }
        taken
    }

    /// Forgets what came before this time.
    pub fn expire(&mut self, before_ns: u64) {
        while self.order.front().is_some_and(|(at_ns, _)| *at_ns < before_ns) {
            self.forget_first();
        }
    }

    /// Gives back memory that is not needed now.
    pub fn shrink(&mut self) {
        self.by_key.shrink_to_fit();
        self.order.shrink_to_fit();
    }

    fn forget_first(&mut self) -> Option<u64> {
        let (at_ns, key) = self.order.pop_front()?;
        let values = self.by_key.get_mut(&key)?;
        let forgotten = values.pop_front_if(|(value_at_ns, _)| *value_at_ns <= at_ns);
        if values.is_empty() {
            self.by_key.remove(&key);
        }
        forgotten.map(|_| at_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(recent: &Recent<u64, u32>, key: u64) -> Vec<u32> {
        recent.of(&key).copied().collect()
    }

    #[test]
    fn the_oldest_are_forgotten_first_and_counted() {
        let mut recent = Recent::new(3);
        for n in 0..5 {
            recent.push(u64::from(n), u64::from(n % 2), n);
        }
        assert_eq!((numbers(&recent, 0), numbers(&recent, 1)), (vec![2, 4], vec![3]));
        assert_eq!((recent.forgotten, recent.forgotten_until_ns, recent.len()), (2, 1, 3));
    }

    #[test]
    fn what_is_old_is_forgotten_and_not_counted() {
        let mut recent = Recent::new(10);
        for n in 0..5 {
            recent.push(u64::from(n), 7, n);
        }
        recent.expire(3);
        assert_eq!((numbers(&recent, 7), recent.forgotten), (vec![3, 4], 0));
        recent.expire(9);
        assert!(recent.is_empty() && !recent.has(&7));
    }

    #[test]
    fn what_was_taken_out_makes_nothing_else_go_early() {
        let mut recent = Recent::new(10);
        for n in 0..6 {
            recent.push(u64::from(n), 7, n);
        }
        assert_eq!(recent.take(&7, |n| *n < 2), [0, 1]);
        recent.expire(2);
        assert_eq!(numbers(&recent, 7), [2, 3, 4, 5]);
        assert_eq!(recent.take(&7, |_| true).len(), 4);
        recent.push(9, 7, 9);
        recent.expire(6);
        assert_eq!(numbers(&recent, 7), [9]);
    }
}
