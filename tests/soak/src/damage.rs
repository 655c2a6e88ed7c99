//! What others do to the node's rules, and whether they are as before again.

use std::time::{Duration, Instant};

use streamvs_support::lab::Host;

use crate::schedule::Damage;

/// How long a repair may take: it is due every second.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the agent captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Iptables,
    Nftables,
}

impl By {
    /// The value of `--capture`.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

impl Damage {
    /// The command by which it is done.
    fn command(self, by: By) -> &'static str {
        match (self, by) {
            (Self::Capture, By::Iptables) => "iptables -t nat -F STREAMVS-CAPTURE",
            (Self::Capture, By::Nftables) => "nft flush chain ip streamvs-capture nat-prerouting",
            (Self::Set, By::Iptables) => "ipset flush streamvs4",
            (Self::Set, By::Nftables) => "nft flush set ip streamvs-capture streamvs4",
            (Self::Nat, By::Iptables) => "iptables -t nat -F",
            (Self::Nat, By::Nftables) => "nft delete table ip streamvs-capture",
            (Self::KernelPath, _) => "nft delete table ip streamvs-nat",
        }
    }

    /// Does it on a node and waits until it is mended.
    ///
    /// # Errors
    /// In words, when it is not.
    pub(crate) fn inflict(self, by: By, node: &Host) -> Result<(), String> {
        let before = rules(node);
        let words: Vec<&str> = self.command(by).split(' ').collect();
        node.output(words[0], &words[1..]);
        let start = Instant::now();
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let after = rules(node);
            if after == before {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                let (missing, new) = (only_in(&before, &after), only_in(&after, &before));
                return Err(format!("not mended: {missing:?} are missing, {new:?} are new"));
            }
        }
    }
}

/// The words of all rules and sets of NAT that are for IPv4, sorted, since elements of a set have no
/// order. Of the kernel path, which is written in one transaction, the map of Services stands for
/// all, without the chains it leads to: there are some for as many endpoints as there ever were, and
/// it may follow the change before this just now.
fn rules(node: &Host) -> Vec<String> {
    let mut words = Vec::new();
    for (program, arguments) in [
        ("iptables-save", &["-t", "nat"][..]),
        ("ipset", &["save"]),
        ("nft", &["list", "map", "ip", "streamvs-nat", "services"]),
        ("nft", &["-s", "list", "table", "ip", "streamvs-capture"]),
    ] {
        // A table that is not there is an error, and has no words.
        let output = node.command(program).args(arguments).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().filter(|line| !line.starts_with(['#', ':']));
        let all = lines.flat_map(|line| line.split([' ', '\t', ',']));
        let kept = all.filter(|word| !word.is_empty() && !word.contains("rr-"));
        words.extend(kept.map(str::to_owned));
    }
    words.sort_unstable();
    words
}

/// The words that stand more often in one list than in another.
fn only_in<'a>(these: &'a [String], others: &[String]) -> Vec<&'a str> {
    let count = |words: &[String], word: &String| words.iter().filter(|one| *one == word).count();
    let mut more: Vec<&str> = Vec::new();
    for word in these.chunk_by(|one, other| one == other) {
        if word.len() > count(others, &word[0]) {
            more.push(&word[0]);
        }
    }
    more
}
