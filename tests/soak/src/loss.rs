//! A network that loses packets, and delays them where the kernel can.
//!
//! Loss is a rule in the pods' own namespaces that drops what comes in, so that it counts what it
//! has dropped. It leaves resets alone: a dead endpoint whose reset was lost would be found out
//! whenever somebody next writes to it, and no record could say when. Delay is netem's.

use streamvs_support::lab::Host;

/// What a packet waits, and by how much that varies.
const DELAY: [&str; 2] = ["10ms", "5ms"];

/// A network that can be made bad.
#[derive(Debug)]
pub(crate) struct Network {
    pods: Vec<Host>,
    can_delay: bool,
}

impl Network {
    /// Of these pods. Looks whether the kernel can delay packets.
    pub(crate) fn new(pods: Vec<Host>) -> Self {
        let mut network = Self { pods, can_delay: true };
        let add = network.pods[0].command("tc").args(netem("add")).output();
        network.can_delay = add.is_ok_and(|output| output.status.success());
        if network.can_delay {
            network.pods[0].output("tc", &["qdisc", "del", "dev", "eth0", "root"]);
        }
        network
    }

    /// True when packets are delayed too.
    pub(crate) fn can_delay(&self) -> bool {
        self.can_delay
    }

    /// Drops this share of what comes in, in each pod.
    pub(crate) fn make_bad(&self, percent: u8) {
        let probability = format!("{}", f64::from(percent) / 100.0);
        for pod in &self.pods {
            for kind in [&["udp"][..], &["tcp", "!", "--tcp-flags", "RST", "RST"]] {
                let drop = ["-m", "statistic", "--mode", "random", "--probability", &probability];
                let arguments = [&["-A", "INPUT", "-p"], kind, &drop, &["-j", "DROP"]].concat();
                pod.output("iptables", &arguments);
            }
            if self.can_delay {
                pod.output("tc", &netem("add"));
            }
        }
    }

    /// As before. Returns how many datagrams were dropped meanwhile.
    pub(crate) fn make_good(&self) -> u64 {
        let mut dropped = 0;
        for pod in &self.pods {
            let counters = pod.output("iptables", &["-L", "INPUT", "-n", "-v", "-x"]);
            dropped += datagrams(&counters);
            pod.output("iptables", &["-F", "INPUT"]);
            if self.can_delay {
                pod.output("tc", &["qdisc", "del", "dev", "eth0", "root"]);
            }
        }
        dropped
    }
}

fn netem(action: &str) -> Vec<&str> {
    let mut arguments = vec!["qdisc", action, "dev", "eth0", "root", "netem", "delay"];
    arguments.extend(DELAY);
    arguments
}

/// The packets that the rule for UDP has counted, in what iptables lists.
fn datagrams(list: &str) -> u64 {
    let words = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rules = words.filter(|words| matches!(words[..], [_, _, "DROP", "udp" | "17", ..]));
    rules.filter_map(|words| words[0].parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_datagrams_are_counted() {
        let list = "Chain INPUT (policy ACCEPT 0 packets, 0 bytes)\n    \
                    pkts      bytes target     prot opt in     out     source     destination\n      \
                    12     3400 DROP       udp  --  *      *       0.0.0.0/0  0.0.0.0/0\n      \
                    99    12345 DROP       tcp  --  *      *       0.0.0.0/0  0.0.0.0/0 tcp\n";
        assert_eq!(datagrams(list), 12);
        assert_eq!(datagrams(&list.replace("udp", "17 ")), 12);
    }
}
