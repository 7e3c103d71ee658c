use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// So many things at once, and so many of them for each asker.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    total: usize,
    each: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    each: HashMap<Option<IpAddr>, usize>,
}

/// One thing, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    taken: Arc<Mutex<Taken>>,
    asker: Option<IpAddr>,
}

impl Budget {
    pub(super) fn new(total: usize, each: usize) -> Self {
        Self { total, each, taken: Arc::default() }
    }

    /// Takes one for an asker, all strangers being one; nothing if there is none left.
    pub(super) fn take(&self, asker: Option<IpAddr>) -> Option<Permit> {
        let mut taken = lock(&self.taken);
        let its = taken.each.get(&asker).copied().unwrap_or_default();
        if taken.total >= self.total || its >= self.each {
            return None;
        }
        taken.total += 1;
        taken.each.insert(asker, its + 1);
        Some(Permit { taken: Arc::clone(&self.taken), asker })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.total -= 1;
        // Those who have nothing under way are forgotten, so that the map is no longer than the budget.
        match taken.each.get_mut(&self.asker) {
            Some(its) if *its > 1 => *its -= 1,
            _ => {
                taken.each.remove(&self.asker);
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_all_nor_one_can_take_more() {
        let budget = Budget::new(3, 2);
        let (one, two): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = budget.take(Some(one)).unwrap();
        let _second = budget.take(Some(one)).unwrap();
        assert!(budget.take(Some(one)).is_none(), "one has its share");
        let third = budget.take(Some(two)).unwrap();
        assert!(budget.take(None).is_none(), "all is taken");
        drop((first, third));
        let _fourth = budget.take(Some(one)).unwrap();
        let _fifth = budget.take(None).unwrap();
        assert!(budget.take(Some(two)).is_none());
        assert_eq!(lock(&budget.taken).each.len(), 2);
    }
}
