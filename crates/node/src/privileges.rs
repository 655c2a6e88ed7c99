//! Gives up, for good, what the agent does not need once its doors are open.
//!
//! Comes in: whatever the process was started with, mostly all of root's capabilities. Goes out:
//! those in [`NEEDED`], in every set, and `no_new_privs`, so that no program it runs can have more.
//! Nothing is ever raised: an agent that was started with less keeps less.
//!
//! Capabilities belong to threads, and children of a thread inherit its own. So this runs while
//! the process has one thread only.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};

use crate::error::Error;

/// `CAP_NET_ADMIN` for rules, sets, routes and `SO_MARK`; `CAP_NET_RAW` because iptables looks up
/// ipsets through a raw socket.
const NEEDED: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];

/// Gives up everything else.
///
/// `files` are those the operator named. Root's own rights to read another user's file are a
/// capability too (`CAP_DAC_READ_SEARCH`), which is kept where one of them is, or lies in a
/// folder that is, another user's.
///
/// # Errors
/// The kernel refuses; what was given up until then stays so.
pub(crate) fn give_up<'a>(files: impl IntoIterator<Item = &'a Path>) -> Result<(), Error> {
    let mut kept = CapsHashSet::from(NEEDED);
    let owner = nix::unistd::geteuid().as_raw();
    if files.into_iter().any(|file| is_of_others(file, owner)) {
        kept.insert(Capability::CAP_DAC_READ_SEARCH);
    }
    let kept = reduce(&kept).map_err(Error::Privileges)?;
    nix::sys::prctl::set_no_new_privs().map_err(|error| Error::NoNewPrivileges(error.into()))?;
    tracing::info!(?kept, "privileges given up");
    Ok(())
}

/// Leaves no more than `kept` in any set. Returns what is left, in order.
fn reduce(kept: &CapsHashSet) -> Result<Vec<Capability>, caps::errors::CapsError> {
    // Only with CAP_SETPCAP, hence first. Without it the bounding set stays as it is, which gives
    // nothing to a process that cannot gain privileges.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)?.difference(kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    // The effective set must lie within the permitted one, and the ambient set shrinks with
    // the permitted and the inheritable ones.
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        let left = caps::read(None, set)?.intersection(kept).copied().collect();
        caps::set(None, set, &left)?;
    }
    let mut left: Vec<Capability> = caps::read(None, CapSet::Permitted)?.into_iter().collect();
    left.sort_by_key(Capability::index);
    Ok(left)
}

/// True where `owner` may need more than a file's owner has, to read it or to get there. A file
/// that is not there is nobody's.
fn is_of_others(file: &Path, owner: u32) -> bool {
    let Ok(file) = file.canonicalize() else { return false };
    file.ancestors().any(|place| place.metadata().is_ok_and(|place| place.uid() != owner))
}

#[cfg(test)]
mod tests {
    //! Aim: root's rights to read are kept exactly where they are needed.
    //! What the kernel then says of the process is tested in namespaces.

    use std::path::Path;

    use super::is_of_others;

    #[test]
    fn a_path_is_another_users_if_any_part_of_it_is() {
        let (root, nobody) = (0, 65534);
        assert!(!is_of_others(Path::new("/proc/sys"), root));
        assert!(is_of_others(Path::new("/proc/sys"), nobody));
        assert!(!is_of_others(Path::new("/proc/no-such-file"), nobody));
    }
}
