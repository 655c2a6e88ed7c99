//! Clearing away what a killed process left.

use super::netns::{FOLDER, delete};

/// Deletes every lab whose process is gone, with all that still runs in it. Returns their names.
///
/// A process that panics clears up after itself; one that was killed cannot.
pub fn sweep() -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(FOLDER) else {
        return Vec::new();
    };
    let mut swept = Vec::new();
    for entry in folder.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            delete(&name);
            swept.push(name);
        }
    }
    swept
}

/// The process a lab's namespace belongs to; none for a name that is not one of ours.
fn owner(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix("svs-")?.splitn(3, '-');
    let pid = parts.next()?.parse().ok()?;
    parts.next()?.parse::<u32>().ok()?;
    parts.next()?;
    Some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_have_an_owner() {
        assert_eq!(owner("svs-812-0-node"), Some(812));
        assert_eq!(owner("svs-812-0-a-b"), Some(812));
        for foreign in ["svs-812", "svs-812-node", "cni-812-0-node", "svs-x-0-node", "svs--0-node"]
        {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
    }
}
