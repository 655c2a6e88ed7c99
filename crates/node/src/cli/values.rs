//! How the values of flags are written. kube-proxy's forms are accepted where the flag is its.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use ipnet::IpNet;
use streamvs_balance::SchedulerName;
use streamvs_capture::BEAT;
use streamvs_resolve::{LEAST_AGE, go_duration};

/// What a flag or field that takes a duration accepts.
pub(crate) const DURATION: &str = "a duration such as 500ms, 30s or 1h30m";

/// What a flag or field that takes an address to listen on accepts.
pub(crate) const BIND_ADDRESS: &str = "an IP address with or without a port, such as 0.0.0.0:10256 \
                                       or [::]:10256";

/// The most that an audit of kernel rules may be apart: the rules' lease and the health pages
/// count on it.
pub(crate) const MAX_SYNC_PERIOD: Duration = Duration::from_secs(30);

/// The most that a dead man may be waited for: a bound of what tests and debuggers need.
const MAX_DEAD_MAN_TIMEOUT: Duration = Duration::from_secs(3600);

/// The longest TCP_KEEPIDLE and TCP_KEEPINTVL of the kernel, which counts in seconds.
const MAX_KEEPALIVE_SECONDS: u64 = 32_767;

/// Less than a second is less than a lost packet may take; more than an hour is no bound.
const MIN_USER_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_USER_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a flag that takes a memory limit accepts.
const MEMORY_LIMIT: &str = "auto, none, or octets as 512Mi are needed";

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindAddress {
    /// Written as an empty text: nothing is served.
    Nowhere,
    /// There, at its usual port where none is given.
    At(IpAddr, Option<u16>),
}

impl BindAddress {
    /// With the port that is used where none is given.
    pub(crate) fn or_port(self, port: u16) -> Option<SocketAddr> {
        match self {
            Self::Nowhere => None,
            Self::At(ip, given) => Some(SocketAddr::new(ip, given.unwrap_or(port))),
        }
    }
}

pub(crate) fn bind_address(text: &str) -> Result<BindAddress, String> {
    if text.is_empty() {
        return Ok(BindAddress::Nowhere);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(BindAddress::At(address.ip(), Some(address.port())));
    }
    let ip = text.trim_start_matches('[').trim_end_matches(']').parse();
    ip.map(|ip| BindAddress::At(ip, None)).map_err(|_| format!("{BIND_ADDRESS} is needed"))
}

/// At which of the node's addresses node ports are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodePortAddresses {
    /// The Node object's.
    Primary,
    /// Loopback.
    Localhost,
    /// All that the node has.
    All,
    /// Those within.
    Range(IpNet),
}

pub(crate) fn node_port_addresses(text: &str) -> Result<NodePortAddresses, String> {
    match text {
        "primary" => Ok(NodePortAddresses::Primary),
        "localhost" => Ok(NodePortAddresses::Localhost),
        "all" => Ok(NodePortAddresses::All),
        _ => text
            .parse()
            .map(NodePortAddresses::Range)
            .map_err(|_| "primary, localhost, all or a range such as 10.0.0.0/8 is needed".into()),
    }
}

/// A path, or an empty text for none, which clap's own parser refuses.
pub(crate) fn path_or_none() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// A Service as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceArgument {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// `NAMESPACE/SERVICE`, or `SERVICE` in the namespace `default`. Of the letters that Kubernetes
/// allows in names.
pub(crate) fn service_name(text: &str) -> Result<ServiceArgument, String> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let is_name = |name: &str| {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
        !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed)
    };
    if !is_name(namespace) || !is_name(name) {
        return Err("a Service's name is needed, as shop/cart or cart".to_owned());
    }
    Ok(ServiceArgument { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Empty is `rr`, as for kube-proxy.
pub(crate) fn scheduler(name: &str) -> Result<SchedulerName, String> {
    if name.is_empty() {
        return Ok(SchedulerName::default());
    }
    name.parse().map_err(|error: streamvs_balance::UnknownScheduler| error.to_string())
}

pub(crate) fn mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(0) | Err(_) => Err("a number from 1 to 0xffffffff is needed".to_owned()),
        Ok(mark) => Ok(mark),
    }
}

pub(crate) fn sync_period(text: &str) -> Result<Duration, String> {
    let period = duration(text)?;
    if period.is_zero() {
        return Err("more than 0s is needed".to_owned());
    }
    Ok(period)
}

/// At least a few beats of the workers, and no more than an hour.
pub(crate) fn dead_man_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    if !(3 * BEAT..=MAX_DEAD_MAN_TIMEOUT).contains(&timeout) {
        return Err("300ms to 1h is needed".to_owned());
    }
    Ok(timeout)
}

/// What the kernel takes for TCP_KEEPIDLE and TCP_KEEPINTVL.
pub(crate) fn keepalive(text: &str) -> Result<Duration, String> {
    let keepalive = duration(text)?;
    if keepalive.subsec_nanos() != 0 || !(1..=MAX_KEEPALIVE_SECONDS).contains(&keepalive.as_secs())
    {
        return Err(format!("whole seconds from 1s to {MAX_KEEPALIVE_SECONDS}s are needed"));
    }
    Ok(keepalive)
}

/// Never none: what waits for a peer has a bound.
pub(crate) fn user_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    if !(MIN_USER_TIMEOUT..=MAX_USER_TIMEOUT).contains(&timeout) {
        return Err("1s to 1h is needed".to_owned());
    }
    Ok(timeout)
}

pub(crate) fn level(text: &str) -> Result<tracing::Level, String> {
    if let Ok(count) = text.parse::<u8>() {
        return Ok(match count {
            0..=2 => tracing::Level::INFO,
            3..=4 => tracing::Level::DEBUG,
            _ => tracing::Level::TRACE,
        });
    }
    text.parse().map_err(|_| "error, warn, info, debug, trace or a number is needed".to_owned())
}

/// As Go's `strconv.ParseBool` has it.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err("true or false is needed".to_owned()),
    }
}

/// As Go's `time.ParseDuration` has it, but not negative: `1h30m`, `1.5h`, `250ms`, `0`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    go_duration(text).ok_or_else(|| format!("{DURATION} is needed"))
}

/// How much memory the process may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryLimit {
    /// As much as the kernel lets it have, where there is a limit.
    Auto,
    /// Any amount.
    None,
    /// So many octets.
    Bytes(u64),
}

/// None, or at least what can be told apart.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let age = go_duration(text).filter(|age| age.is_zero() || *age >= LEAST_AGE);
    age.ok_or_else(|| "0s or a duration of at least 1s, as 10m, is needed".to_owned())
}

/// Octets are written as Kubernetes writes quantities of memory: `536870912`, `512Mi`, `500M`.
pub(crate) fn memory_limit(text: &str) -> Result<MemoryLimit, String> {
    match text {
        "auto" => return Ok(MemoryLimit::Auto),
        "none" => return Ok(MemoryLimit::None),
        _ => {}
    }
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit {
        "" => Some(1),
        "k" => Some(1_000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        _ => None,
    };
    let bytes = unit.and_then(|unit: u64| number.parse::<u64>().ok()?.checked_mul(unit));
    let bytes = bytes.filter(|bytes| *bytes > 0);
    bytes.map(MemoryLimit::Bytes).ok_or_else(|| MEMORY_LIMIT.to_owned())
}

pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    let positive = go_duration(text).filter(|duration| !duration.is_zero());
    positive.ok_or_else(|| format!("{DURATION} is needed, and more than 0"))
}

#[cfg(test)]
mod tests {
    //! Aim: values are read as kube-proxy reads them.

    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, milliseconds) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("24h0m0s", Some(86_400_000)),
            ("15m0s", Some(900_000)),
            ("1.5h", Some(5_400_000)),
            (".5s", Some(500)),
            ("250ms", Some(250)),
            ("1s500000µs", Some(1500)),
            ("+1s", Some(1000)),
            ("", None),
            ("30", None),
            ("-1s", None),
            ("1 s", None),
            ("1d", None),
            ("s", None),
            (".s", None),
            ("1..5s", None),
            ("99999999999999999999h", None),
            ("5124095576030431h", None),
        ] {
            let expected = milliseconds.map(Duration::from_millis);
            assert_eq!(duration(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn time_outs_of_tcp_are_what_the_kernel_takes_and_never_none() {
        for (text, seconds) in [
            ("1s", Some(1)),
            ("9h6m7s", Some(32_767)),
            ("32768s", None),
            ("0s", None),
            ("1500ms", None),
            ("long", None),
        ] {
            assert_eq!(keepalive(text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
        for (text, milliseconds) in [
            ("1s", Some(1000)),
            ("1500ms", Some(1500)),
            ("1h", Some(3_600_000)),
            ("999ms", None),
            ("0", None),
            ("61m", None),
        ] {
            assert_eq!(user_timeout(text).ok(), milliseconds.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn memory_is_written_as_kubernetes_writes_it() {
        for (text, limit) in [
            ("auto", Some(MemoryLimit::Auto)),
            ("none", Some(MemoryLimit::None)),
            ("536870912", Some(MemoryLimit::Bytes(512 << 20))),
            ("512Mi", Some(MemoryLimit::Bytes(512 << 20))),
            ("2Gi", Some(MemoryLimit::Bytes(2 << 30))),
            ("500M", Some(MemoryLimit::Bytes(500_000_000))),
            ("0", None),
            ("", None),
            ("Mi", None),
            ("1.5Gi", None),
            ("-1", None),
            ("1 Mi", None),
            ("18446744073709551615Ki", None),
        ] {
            assert_eq!(memory_limit(text).ok(), limit, "{text}");
        }
    }

    #[test]
    fn an_address_may_come_without_port_or_not_at_all() {
        for (text, address) in [
            ("", Some(None)),
            ("0.0.0.0:10256", Some(Some("0.0.0.0:10256"))),
            ("127.0.0.1", Some(Some("127.0.0.1:7"))),
            ("[::]:80", Some(Some("[::]:80"))),
            ("::1", Some(Some("[::1]:7"))),
            ("[::1]", Some(Some("[::1]:7"))),
            (":10249", None),
            ("localhost:10249", None),
            ("0.0.0.0:70000", None),
        ] {
            let expected = address.map(|address| address.map(|text| text.parse().unwrap()));
            assert_eq!(bind_address(text).ok().map(|bind| bind.or_port(7)), expected, "{text}");
        }
    }

    #[test]
    fn a_service_is_named_with_or_without_its_namespace() {
        for (text, expected) in [
            ("shop/cart", Some(("shop", "cart"))),
            ("cart", Some(("default", "cart"))),
            ("", None),
            ("/cart", None),
            ("shop/", None),
            ("a/b/c", None),
            ("shop/ca rt", None),
            ("../cart", None),
            ("shop/cart?x", None),
        ] {
            let found = service_name(text).ok();
            let found = found.as_ref().map(|found| (&*found.namespace, &*found.name));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn verbosity_is_a_name_or_kube_proxys_number() {
        for (text, expected) in [
            ("0", tracing::Level::INFO),
            ("2", tracing::Level::INFO),
            ("4", tracing::Level::DEBUG),
            ("6", tracing::Level::TRACE),
            ("warn", tracing::Level::WARN),
        ] {
            assert_eq!(level(text), Ok(expected));
        }
        assert!(level("loud").is_err());
    }
}
