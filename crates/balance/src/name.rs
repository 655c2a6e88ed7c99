//! The names by which a scheduler is asked for.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A scheduler as `--ipvs-scheduler` and the annotation `streamvs.io/scheduler` name it: IPVS'
/// names, and `random`, which is what kube-proxy's iptables and nftables modes do.
///
/// What each does here stands in the documentation of the crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SchedulerName {
    /// Rotation.
    #[default]
    Rr,
    /// By chance, weighted.
    Random,
    /// Least outstanding.
    Lc,
    /// Least outstanding for its weight.
    Wlc,
    /// Rotation in proportion to the weights.
    Wrr,
    /// Shortest expected delay.
    Sed,
    /// Never queue: an idle one, else shortest expected delay.
    Nq,
    /// Source hashing.
    Sh,
    /// Maglev hashing of the source.
    Mh,
    /// Power of two choices.
    Twos,
    /// Destination hashing: runs `rr`.
    Dh,
    /// Locality-based least-connection: runs `rr`.
    Lblc,
    /// The same with replication: runs `rr`.
    Lblcr,
    /// Weighted failover.
    Fo,
    /// Weighted overflow.
    Ovf,
}

impl SchedulerName {
    /// Each name once, in the order in which messages list them.
    pub const ALL: &[Self] = &[
        Self::Rr,
        Self::Random,
        Self::Lc,
        Self::Wlc,
        Self::Wrr,
        Self::Sed,
        Self::Nq,
        Self::Sh,
        Self::Mh,
        Self::Twos,
        Self::Dh,
        Self::Lblc,
        Self::Lblcr,
        Self::Fo,
        Self::Ovf,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Random => "random",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Wrr => "wrr",
            Self::Sed => "sed",
            Self::Nq => "nq",
            Self::Sh => "sh",
            Self::Mh => "mh",
            Self::Twos => "twos",
            Self::Dh => "dh",
            Self::Lblc => "lblc",
            Self::Lblcr => "lblcr",
            Self::Fo => "fo",
            Self::Ovf => "ovf",
        }
    }

    /// Chooses by the destination address alone. A Service has one, so that the name would mean
    /// "always the same endpoint"; `rr` runs in its place.
    pub fn degenerate(self) -> bool {
        matches!(self, Self::Dh | Self::Lblc | Self::Lblcr)
    }
}

impl fmt::Display for SchedulerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for SchedulerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl FromStr for SchedulerName {
    type Err = UnknownScheduler;

    /// Exact, in lower case as `ipvsadm` wants it. The empty name is `rr`, as for kube-proxy.
    fn from_str(name: &str) -> Result<Self, UnknownScheduler> {
        if name.is_empty() {
            return Ok(Self::Rr);
        }
        Self::ALL
            .iter()
            .copied()
            .find(|known| known.as_str() == name)
            .ok_or_else(|| UnknownScheduler { name: name.into() })
    }
}

/// No scheduler has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownScheduler {
    name: Box<str>,
}

impl UnknownScheduler {
    /// The name that is none.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for UnknownScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown scheduler {:?}, accepted are", self.name)?;
        for (index, known) in SchedulerName::ALL.iter().enumerate() {
            write!(f, "{} {known}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Error for UnknownScheduler {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_to_itself_and_is_shown_as_written() {
        for &name in SchedulerName::ALL {
            assert_eq!(name.as_str().parse(), Ok(name));
            assert_eq!(name.to_string(), name.as_str());
        }
        assert_eq!(SchedulerName::ALL.len(), 15);
    }

    #[test]
    fn the_empty_name_is_rr() {
        assert_eq!("".parse(), Ok(SchedulerName::Rr));
        assert_eq!(SchedulerName::default(), SchedulerName::Rr);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_list() {
        for name in ["RR", " rr", "lc ", "leastconn", "rrr"] {
            let error = name.parse::<SchedulerName>().unwrap_err();
            assert_eq!(error.name(), name);
            let text = error.to_string();
            assert!(text.contains(&format!("{name:?}")), "{text}");
            assert!(text.ends_with("fo, ovf") && text.contains("are rr, random, lc"), "{text}");
        }
    }

    #[test]
    fn exactly_the_destination_hashes_are_degenerate() {
        let degenerate: Vec<_> =
            SchedulerName::ALL.iter().filter(|name| name.degenerate()).copied().collect();
        assert_eq!(degenerate, [SchedulerName::Dh, SchedulerName::Lblc, SchedulerName::Lblcr]);
    }
}
