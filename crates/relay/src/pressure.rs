//! What is refused while the process is short of memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How much is given up for want of memory. Each step has all that is above it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shed {
    /// Nothing.
    #[default]
    Nothing,
    /// New connections shall pass us by, to whoever else handles Services. Those that come are
    /// served.
    Bypass,
    /// New connections are reset.
    Connections,
    /// New streams are refused with REFUSED_STREAM, which says that nothing has acted on them.
    Streams,
}

impl Shed {
    /// In order.
    pub const ALL: [Self; 4] = [Self::Nothing, Self::Bypass, Self::Connections, Self::Streams];
}

/// How short of memory the process is: one measures it, all workers look at it.
#[derive(Clone, Debug, Default)]
pub struct Pressure(Arc<AtomicU8>);

impl Pressure {
    /// From now on this is given up.
    pub fn set(&self, shed: Shed) {
        self.0.store(shed as u8, Ordering::Relaxed);
    }

    /// What is given up now. A load of what nearly never changes.
    pub fn shed(&self) -> Shed {
        let step = self.0.load(Ordering::Relaxed);
        Shed::ALL.get(usize::from(step)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Pressure, Shed};

    #[test]
    fn all_copies_say_what_was_set_last() {
        let pressure = Pressure::default();
        let copy = pressure.clone();
        assert_eq!(copy.shed(), Shed::Nothing);
        for shed in Shed::ALL.into_iter().rev() {
            pressure.set(shed);
            assert_eq!(copy.shed(), shed);
        }
    }
}
