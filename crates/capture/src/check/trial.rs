//! All rules tried for real, in a network namespace of their own: what the kernel or a program
//! lacks shows here, whatever it is.

use std::path::Path;
use std::thread;

use netlink_packet_route::link::{LinkFlags, LinkMessage};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::Handle;
use streamvs_table::{Alias, Family, Protocol};

use super::Finding;
use crate::command::{find, run};
use crate::error::RouteAttempt;
use crate::tools::{Flavour, Tools};
use crate::{Backend, Capture, Config, Desired, Error, link};

const RULES: &str = "rules";
const CLIENT_IP: &str = "client address";
const OWNER: &str = "nft owner tables";

/// What came of the trial.
struct Tried {
    families: Vec<Family>,
    obstacles: Vec<String>,
    /// The kernel can take a table away with the process that made it. None: `nft` is missing.
    owner_tables: Option<bool>,
}

/// Tries all rules.
pub(super) async fn findings(config: &Config, flavour: Flavour) -> Vec<Finding> {
    let tools = match flavour {
        Flavour::Nft => Tools::Nft,
        Flavour::Legacy => Tools::Legacy,
    };
    let backend = match config.backend {
        Backend::Auto | Backend::Iptables => Backend::Iptables,
        Backend::Nftables => Backend::Nftables,
    };
    let config = Config { backend, tools, service_cidrs: Vec::new(), gate: None, ..config.clone() };
    // A thread leaves its namespace for good, so it is one of its own.
    let trying = tokio::task::spawn_blocking(move || thread::spawn(move || apart(config)).join());
    match trying.await {
        Ok(Ok(Ok(tried))) => tell(flavour, &tried),
        Ok(Ok(Err(Failure::Namespace(error)))) => vec![Finding::warning(
            RULES,
            format!("not tried: a network namespace cannot be made: {error}"),
            "run this as root with CAP_SYS_ADMIN",
        )],
        Ok(Ok(Err(Failure::Rules(error)))) => vec![Finding::unfit(
            RULES,
            error.to_string(),
            "load the kernel's modules and install the programs this names: nf_nat, \
             nf_conntrack, ip_set_hash_ipport, xt_set and the REJECT targets are needed",
        )],
        Ok(Err(_)) | Err(_) => {
            vec![Finding::warning(RULES, "not tried: the trial broke off", "please report this")]
        }
    }
}

fn tell(flavour: Flavour, tried: &Tried) -> Vec<Finding> {
    let families: Vec<String> = tried.families.iter().map(Family::to_string).collect();
    let families = families.join(" and ");
    let mut findings = vec![if tried.families.contains(&Family::V6) {
        Finding::fit(RULES, format!("the kernel takes all of them, for {families}"))
    } else {
        let advice = "see that ip6tables works, if the cluster has IPv6 Services";
        Finding::warning(RULES, format!("the kernel takes them for {families} only"), advice)
    }];
    findings.push(match tried.obstacles.first() {
        None => Finding::fit(CLIENT_IP, "the kernel can show endpoints the client's address"),
        Some(obstacle) => Finding::warning(
            CLIENT_IP,
            format!("endpoints see the node's: {obstacle}"),
            "load xt_NETMAP and install iptables with its NETMAP extension; for --capture nftables \
             Linux 5.8 and nft 0.9.5",
        ),
    });
    let used = if flavour == Flavour::Nft { "" } else { ", beside iptables-legacy" };
    findings.push(match tried.owner_tables {
        Some(true) => Finding::fit(OWNER, format!("the kernel has them{used}")),
        Some(false) => Finding::warning(
            OWNER,
            "the kernel lacks them",
            "Linux 5.12 and newer take a table away with the process that made it, so that a \
             crashed agent captures nothing more at once",
        ),
        None => Finding::warning(OWNER, "not tried: there is no program nft", "install nftables"),
    });
    findings
}

enum Failure {
    Namespace(nix::Error),
    Rules(Error),
}

/// On a thread of its own.
fn apart(config: Config) -> Result<Tried, Failure> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(Failure::Namespace)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Rules(Error::RouteSocket(error)))?;
    runtime.block_on(attempt(config)).map_err(Failure::Rules)
}

async fn attempt(config: Config) -> Result<Tried, Error> {
    link::converse(async |handle: &Handle| {
        let mut loopback = LinkMessage::default();
        loopback.header.index = link::LOOPBACK;
        loopback.header.flags = LinkFlags::Up;
        loopback.header.change_mask = LinkFlags::Up;
        let failed = |source| Error::Route { attempt: RouteAttempt::Links, source };
        handle.link().set(loopback).execute().await.map_err(failed)
    })
    .await?;
    let capture = Capture::install(config, &sample()).await?;
    let obstacles = capture.obstacles();
    let kept = capture.aliases();
    // Each family has an alias in the sample, with which something has become of it.
    let seen = |family: &Family| {
        let known = kept.iter().chain(obstacles.iter().map(|(alias, _)| alias));
        known.into_iter().any(|alias| alias.family() == *family)
    };
    let families = Family::BOTH.into_iter().filter(seen).collect();
    let obstacles = obstacles.iter().map(|(_, reason)| reason.to_string()).collect();
    capture.remove().await?;
    let owner_tables = match find("nft") {
        Some(nft) => Some(owns_tables(&nft).await?),
        None => None,
    };
    Ok(Tried { families, obstacles, owner_tables })
}

async fn owns_tables(nft: &Path) -> Result<bool, Error> {
    let table = "add table inet streamvs-trial { flags owner; }";
    Ok(run(nft, &["-f", "-"], table).await?.succeeded())
}

/// One of each, of documentation addresses (RFC 5737, RFC 3849).
fn sample() -> Desired {
    let mut desired = Desired::default();
    for base in ["192.0.2.", "2001:db8::"] {
        let ip = |last: u8| format!("{base}{last}").parse().expect("an address");
        desired.capture.insert((ip(1), 80));
        desired.reject.insert((ip(2), 53, Protocol::Udp));
        desired.drop.insert((ip(3), 80, Protocol::Tcp));
    }
    for (clients, reserve) in
        [("198.51.100.0/24", "203.0.113.0/24"), ("2001:db8:1::/64", "2001:db8:2::/64")]
    {
        let network = |text: &str| text.parse().expect("a network");
        desired.aliases.extend(Alias::new(network(clients), network(reserve)));
    }
    desired
}
