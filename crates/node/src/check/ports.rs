//! Who has the ports that the agent needs.

use std::fs;
use std::path::Path;

use streamvs_capture::Finding;

use crate::cli::CheckOptions;

/// What the state "listening" is called in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// Where this thread's network namespace shows its TCP sockets.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];

/// A finding for each port.
pub(super) fn findings(options: &CheckOptions) -> Vec<Finding> {
    let texts: Vec<String> =
        TABLES.into_iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let owner = |port: u16| {
        let inode = texts.iter().find_map(|text| listener(text, port))?;
        Some(holder(inode).unwrap_or_else(|| "an unknown process".to_owned()))
    };
    [
        ("listener port", options.listen_port, "--listen-port"),
        ("health port", options.healthz_port, "--healthz-bind-address"),
        ("metrics port", options.metrics_port, "--metrics-bind-address"),
    ]
    .into_iter()
    .map(|(subject, port, flag)| finding(subject, port, flag, owner(port)))
    .collect()
}

fn finding(subject: &'static str, port: u16, flag: &str, owner: Option<String>) -> Finding {
    match owner {
        None => Finding::fit(subject, format!("{port} is free")),
        Some(owner) if owner.starts_with("streamvs ") => {
            Finding::fit(subject, format!("{port} is the agent's"))
        }
        Some(owner) => Finding::unfit(
            subject,
            format!("{port} is taken by {owner}"),
            &format!("end that, or take another port with {flag}"),
        ),
    }
}

/// The inode of a socket that listens on a port, in the form of `/proc/net/tcp`:
///
/// ```text
///   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
///    0: 0100007F:2819 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711
/// ```
fn listener(text: &str, port: u16) -> Option<u64> {
    text.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, listens_on) = words.get(1)?.rsplit_once(':')?;
        let found =
            u16::from_str_radix(listens_on, 16).ok()? == port && *words.get(3)? == LISTENING;
        found.then(|| words.get(9)?.parse().ok()).flatten()
    })
}

/// The process that holds a socket: `nginx (4711)`. None: it is not shown to us.
fn holder(inode: u64) -> Option<String> {
    let name = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        // Not "self", which is one of the others.
        let id: u32 = process.file_name().to_str()?.parse().ok()?;
        let path = process.path();
        let command = holds(&path, &name).then(|| fs::read_to_string(path.join("comm")))?.ok()?;
        Some(format!("{} ({id})", command.trim_end()))
    })
}

fn holds(process: &Path, name: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors
        .flatten()
        .any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|to| to.as_os_str() == name))
}

#[cfg(test)]
mod tests {
    //! Aim: the kernel's table is read, and a socket's owner is found.

    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listening_socket_is_found_with_its_process() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = socket.local_addr().expect("is bound").port();
        let table = fs::read_to_string(TABLES[0]).expect("the kernel's table");
        let inode = listener(&table, port).expect("it listens");
        // A child that another test forks holds our sockets until it executes something.
        let ours = format!("({})", std::process::id());
        eventually(|| holder(inode).is_some_and(|holder| holder.ends_with(&ours)));
        drop(socket);
        let table = || fs::read_to_string(TABLES[0]).expect("the kernel's table");
        eventually(|| listener(&table(), port).is_none());
        for damaged in ["", "\n", "head\n 0: nonsense\n", "head\n 0: 0:ZZ 0:0 0A\n"] {
            assert_eq!(listener(damaged, port), None, "{damaged:?}");
        }
    }

    /// Waits for a condition, for 10 s at most.
    #[track_caller]
    fn eventually(holds: impl Fn() -> bool) {
        let due = std::iter::repeat_n((), 1000).any(|()| {
            let holds = holds();
            if !holds {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            holds
        });
        assert!(due, "not within 10 s");
    }
}
