//! What the kernel's settings allow.

use std::fs;

use super::Finding;

/// Of all entries that may be, the share from which on it gets tight, in percent.
const TIGHT_PERCENT: u64 = 80;

/// Fewer ports to dial from than these are soon used up by short connections: a port waits for a
/// minute after its connection, and it is this number of connections to one endpoint a minute.
const FEW_PORTS: u64 = 10_000;

/// The findings about settings.
pub(super) fn findings() -> Vec<Finding> {
    vec![
        conntrack(number("netfilter/nf_conntrack_count"), number("netfilter/nf_conntrack_max")),
        ports(&read("ipv4/ip_local_port_range")),
        forwarding(number("ipv4/ip_forward")),
    ]
}

fn read(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap_or_default()
}

fn number(name: &str) -> Option<u64> {
    read(name).trim().parse().ok()
}

fn conntrack(count: Option<u64>, most: Option<u64>) -> Finding {
    let subject = "conntrack";
    let (Some(count), Some(most)) = (count, most) else {
        return Finding::unfit(
            subject,
            "the kernel does not track connections",
            "load the module nf_conntrack",
        );
    };
    let found = format!("{count} of {most} entries are used");
    // Each captured connection takes two: the client's and ours to the endpoint.
    if count.saturating_mul(100) >= most.saturating_mul(TIGHT_PERCENT) {
        let advice = "raise net.netfilter.nf_conntrack_max: new connections are dropped when it is \
                      reached, and each captured one takes two entries";
        return Finding::warning(subject, found, advice);
    }
    Finding::fit(subject, found)
}

fn ports(range: &str) -> Finding {
    let subject = "local ports";
    let mut ends = range.split_whitespace().filter_map(|end| end.parse::<u64>().ok());
    let (Some(first), Some(last)) = (ends.next(), ends.next()) else {
        return Finding::warning(subject, "the range is not known", "is /proc mounted?");
    };
    let count = (last + 1).saturating_sub(first);
    let found = format!("{count} to dial from ({first} to {last})");
    if count < FEW_PORTS {
        let advice =
            "widen net.ipv4.ip_local_port_range: it bounds the connections to one endpoint";
        return Finding::warning(subject, found, advice);
    }
    Finding::fit(subject, found)
}

fn forwarding(on: Option<u64>) -> Finding {
    let subject = "forwarding";
    if on == Some(0) {
        let advice = "set net.ipv4.ip_forward to 1, or pods reach nothing but Services";
        return Finding::warning(subject, "the node does not forward", advice);
    }
    Finding::fit(subject, "the node forwards")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn settings_are_judged_by_their_numbers() {
        assert_eq!(conntrack(None, Some(100)).verdict, Verdict::Unfit);
        assert_eq!(conntrack(Some(79), Some(100)).verdict, Verdict::Fit);
        assert_eq!(conntrack(Some(80), Some(100)).verdict, Verdict::Warning);
        assert_eq!(conntrack(Some(u64::MAX), Some(1)).verdict, Verdict::Warning);
        assert_eq!(ports("32768\t60999\n").verdict, Verdict::Fit);
        assert_eq!(ports("40000 40015").verdict, Verdict::Warning);
        assert_eq!(ports("").verdict, Verdict::Warning);
        assert_eq!(forwarding(Some(1)).verdict, Verdict::Fit);
        assert_eq!(forwarding(Some(0)).verdict, Verdict::Warning);
    }
}
