//! In which order the kernel picks endpoints, as far as it can follow a scheduler.

use std::fmt;

use crate::key::List;

/// How the kernel picks one of several endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// By turns.
    Rotation,
    /// By chance.
    Chance,
    /// By a hash of the client's address.
    Source,
}

impl Order {
    /// What comes closest to a scheduler, by the name that `--ipvs-scheduler` takes. Those that
    /// look at load pick by chance here, because the kernel does not know the load.
    pub(crate) fn of(scheduler: &str) -> Self {
        match scheduler {
            "rr" | "wrr" | "dh" | "lblc" | "lblcr" => Self::Rotation,
            "sh" | "mh" => Self::Source,
            _ => Self::Chance,
        }
    }
}

/// Groups among which the Services with as many endpoints share their turns.
const GROUPS: u8 = 16;

/// How one of `count` endpoints of a list is picked, shared by all Services that have as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub(crate) list: List,
    order: Order,
    /// At least 1.
    pub(crate) count: u16,
    /// 0 but for rotation.
    group: u8,
}

impl Turn {
    /// `seed` chooses the group; Services should have different ones.
    pub(crate) fn new(list: List, order: Order, count: u16, seed: u8) -> Self {
        let group = if order == Order::Rotation && count > 1 { seed % GROUPS } else { 0 };
        // One endpoint is always the first, whatever the order.
        let order = if count > 1 { order } else { Order::Chance };
        Self { list, order, count, group }
    }

    /// The expression that yields a number below `count`; `source` names the client's address.
    pub(crate) fn number(self, source: &str) -> String {
        let count = self.count;
        match self.order {
            Order::Rotation => format!("numgen inc mod {count}"),
            Order::Chance => format!("numgen random mod {count}"),
            Order::Source => format!("jhash {source} mod {count} seed 0x53565331"),
        }
    }
}

/// A chain's name that begins so is a turn's, behind the list's prefix.
pub(crate) const WORDS: [&str; 3] = ["rr-", "random-", "hash-"];

/// The name of its chain.
impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { list, order, count, group } = self;
        f.write_str(list.prefix())?;
        match order {
            Order::Rotation => write!(f, "rr-{count}-{group:02x}"),
            Order::Chance => write!(f, "random-{count}"),
            Order::Source => write!(f, "hash-{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedulers_get_the_order_closest_to_them() {
        for (scheduler, chain) in [
            ("rr", "rr-3-05"),
            ("wrr", "rr-3-05"),
            ("random", "random-3"),
            ("lc", "random-3"),
            ("ewma", "random-3"),
            ("no such name", "random-3"),
            ("sh", "hash-3"),
            ("mh", "hash-3"),
        ] {
            assert_eq!(
                Turn::new(List::Main, Order::of(scheduler), 3, 21).to_string(),
                chain,
                "{scheduler}"
            );
        }
    }

    #[test]
    fn a_single_endpoint_has_one_chain_for_all_schedulers() {
        for order in [Order::Rotation, Order::Chance, Order::Source] {
            assert_eq!(Turn::new(List::Main, order, 1, 7).to_string(), "random-1");
        }
    }
}
