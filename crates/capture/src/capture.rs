//! Puts capture by iptables into the kernel, keeps it there, and takes it away.

use std::collections::BTreeSet;

use ipnet::IpNet;
use streamvs_table::{Alias, Aliases, Family, PerFamily};

use crate::alias::{Judged, Narrow, Obstacle};
use crate::cleanup::remove_flavour;
use crate::created::{self, Made};
use crate::error::ConfigError;
use crate::ipset::Ipset;
use crate::listing::{self, Printed, RuleDamage};
use crate::ruleset::{Chain, Ruleset, Table};
use crate::sets::{self, Contents, Found, SetName};
use crate::tools::{Flavour, Iptables, Tools};
use crate::{Backend, Desired, Error, Repair, command, link, render};

/// How capture works on this node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The listener's TCP port. It must listen on `[::]` for both families (or on
    /// [`crate::LISTENER_V4`] and [`crate::LISTENER_V6`]).
    pub listen_port: u16,
    /// Mark bits (`SO_MARK`) of the proxy's own sockets, which are not captured. Not 0.
    pub mark: u32,
    /// The mark bit of new connections without which they are not captured
    /// ([`Gate::bit`](crate::Gate::bit)); none where there is no gate.
    pub gate: Option<u32>,
    /// The cluster's service ranges, where known: each gets one route over `lo` if nothing else
    /// routes it. Service addresses outside of them get a route each.
    pub service_cidrs: Vec<IpNet>,
    /// By what to capture.
    pub backend: Backend,
    /// Which iptables to use.
    pub tools: Tools,
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.mark == 0 {
            return Err(ConfigError::ZeroMark);
        }
        if self.listen_port == 0 {
            return Err(ConfigError::ZeroPort);
        }
        Ok(())
    }

    /// The rules of a family, with those of the aliases that are its.
    pub(crate) fn ruleset(&self, family: Family, aliases: &Aliases) -> Ruleset {
        let Self { listen_port, mark, gate, .. } = *self;
        let aliases = aliases.iter().copied().filter(|alias| alias.family() == family).collect();
        Ruleset { family, listen_port, mark, gate, aliases }
    }
}

/// How often rules are committed before someone else is blamed for changing them.
const ATTEMPTS: u32 = 3;

/// The capture of this node's service connections by iptables.
#[derive(Debug)]
pub(crate) struct Capture {
    config: Config,
    iptables: Iptables,
    ipset: Ipset,
    families: Vec<Family>,
    /// For each family and table, what the install created around our rules.
    made: PerFamily<[Made; 2]>,
    /// The rules committed last, and how the kernel shows them.
    printed: PerFamily<Option<(Ruleset, Printed)>>,
    desired: Desired,
    /// What the sets hold, unless someone else changed them.
    contents: Contents,
    gate_open: bool,
    aliases: Judged,
}

impl Capture {
    /// See [`Capture::install`](crate::Capture::install): sets, then routes, then rules. A
    /// predecessor's sets keep their elements and change only by the difference.
    pub(crate) async fn install(config: Config, desired: &Desired) -> Result<Self, Error> {
        config.check()?;
        let ipset = Ipset::locate()?;
        let iptables = Iptables::choose(config.tools).await?;
        let families = usable_families(&iptables).await?;
        let made = PerFamily::default();
        let mut capture = Self {
            config,
            iptables,
            ipset,
            families,
            made,
            printed: PerFamily::default(),
            desired: desired.clone(),
            contents: Contents::new(),
            gate_open: true,
            aliases: Judged::new("the NETMAP target of iptables"),
        };
        capture.recall_or_probe().await?;
        capture.settle(&|_| {}).await?;
        capture.leave_other_flavour().await?;
        Ok(capture)
    }

    /// The flavour of iptables in use.
    pub(crate) fn flavour(&self) -> Flavour {
        self.iptables.flavour()
    }

    /// The aliases in force: dialling from them shows the client to the endpoint.
    pub(crate) fn aliases(&self) -> Aliases {
        self.aliases.in_force(&self.families)
    }

    /// The aliases asked for that are not in force, and why.
    pub(crate) fn obstacles(&self) -> Vec<(Alias, Obstacle)> {
        self.aliases.obstacles()
    }

    /// See [`Capture::update`](crate::Capture::update): one run of `ipset`.
    pub(crate) async fn update(&mut self, desired: &Desired) -> Result<(), Error> {
        let routed = (self.addresses(), self.ranges());
        if self.desired.aliases != desired.aliases {
            self.desired = desired.clone();
            self.aliases.try_again();
            return self.settle(&|_| {}).await.map(drop);
        }
        self.desired = desired.clone();
        if (self.addresses(), self.ranges()) != routed {
            self.settle_routes().await?;
        }
        let want = self.wanted();
        let script = sets::change(&self.contents, &want);
        if self.ipset.restore(&script).await.is_ok() {
            self.contents = want;
            return Ok(());
        }
        // Someone else took a set away.
        self.settle(&|_| {}).await.map(drop)
    }

    /// See [`Capture::audit`](crate::Capture::audit).
    pub(crate) async fn audit(&mut self, narrow: Narrow<'_>) -> Result<Vec<Repair>, Error> {
        if self.families.contains(&Family::V6) && ipv6_is_off() {
            tracing::warn!("ipv6 was switched off on this node, its services are not captured");
            self.families.retain(|family| *family != Family::V6);
        }
        self.settle(narrow).await
    }

    /// See [`Capture::close_gate`](crate::Capture::close_gate).
    pub(crate) async fn close_gate(&mut self) -> Result<(), Error> {
        self.gate_open = false;
        let want = self.wanted();
        let capture = want.keys().filter(|name| name.purpose.captures());
        let script: String = capture.map(|name| format!("flush {}\n", name.as_str())).collect();
        if self.ipset.restore(&script).await.is_ok() {
            self.contents = want;
            return Ok(());
        }
        self.settle(&|_| {}).await.map(drop)
    }

    /// See [`Capture::remove`](crate::Capture::remove).
    pub(crate) async fn remove(self) -> Result<(), Error> {
        for &family in &Family::BOTH {
            remove_flavour(&self.iptables, family, Extent::Known).await?;
        }
        crate::cleanup::remove_sets(&self.ipset).await?;
        link::remove().await.map(drop)
    }

    fn addresses(&self) -> BTreeSet<std::net::IpAddr> {
        self.families.iter().flat_map(|family| self.desired.addresses(*family)).collect()
    }

    fn ranges(&self) -> BTreeSet<IpNet> {
        self.config.service_cidrs.iter().chain(&self.desired.ranges).copied().collect()
    }

    fn wanted(&self) -> Contents {
        sets::wanted(&self.desired, &self.families, self.gate_open)
    }

    /// Looks everything over and mends it: sets before routes before rules. `narrow` is told of
    /// the aliases that stay, before the others go.
    async fn settle(&mut self, narrow: Narrow<'_>) -> Result<Vec<Repair>, Error> {
        let mut repairs = self.settle_sets().await?;
        self.aliases.examine(&self.desired.aliases).await?;
        narrow(&self.aliases());
        let routes = self.settle_routes().await?;
        repairs.extend(routes.into_iter().map(|network| Repair::Route { network }));
        for family in self.families.clone() {
            self.settle_rules(family, &mut repairs).await?;
        }
        Ok(repairs)
    }

    async fn settle_sets(&mut self) -> Result<Vec<Repair>, Error> {
        let want = self.wanted();
        let names = self.ipset.names().await?;
        let found = self.ipset.read(&names, &want).await?;
        if found.values().any(|found| *found == Found::Alien) {
            self.release_sets().await?;
        }
        let script = sets::mend(&names, &found, &want);
        self.ipset.restore(&script.text).await?;
        self.contents = want;
        let repair = |(name, damage): (SetName, _)| Repair::Set { set: name.as_str(), damage };
        Ok(script.mends.into_iter().map(repair).collect())
    }

    /// Empties our chains of whichever flavour, so that a set can be destroyed.
    async fn release_sets(&mut self) -> Result<(), Error> {
        for flavour in Flavour::BOTH {
            let Ok(iptables) = Iptables::find(flavour).await else { continue };
            for &family in &self.families {
                for (table, listing) in iptables.read_both(family).await? {
                    if listing.our_chains().next().is_some() {
                        iptables.restore(family, &render::release(table, &listing)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn settle_routes(&self) -> Result<Vec<IpNet>, Error> {
        link::settle(&link::Wanted {
            families: &self.families,
            ranges: self.ranges(),
            addresses: self.addresses(),
            aliases: self.aliases().iter().map(Alias::aliases).collect(),
            yielded: self.aliases.yielded(),
        })
        .await
    }

    fn ruleset(&self, family: Family) -> Ruleset {
        self.config.ruleset(family, &self.aliases())
    }

    /// Puts a family's rules in place; without aliases where it takes that.
    async fn settle_rules(
        &mut self,
        family: Family,
        repairs: &mut Vec<Repair>,
    ) -> Result<(), Error> {
        match self.commit_rules(family, repairs).await {
            Err(Error::Failed { stderr, .. })
                if self.aliases().iter().any(|alias| alias.family() == family) =>
            {
                self.aliases.refuse(family, Some(&stderr));
                let committed = self.commit_rules(family, repairs).await;
                match committed {
                    Ok(()) => drop(self.settle_routes().await?),
                    // It was not because of the aliases.
                    Err(_) => self.aliases.refuse(family, None),
                }
                committed
            }
            done => done,
        }
    }

    async fn commit_rules(
        &mut self,
        family: Family,
        repairs: &mut Vec<Repair>,
    ) -> Result<(), Error> {
        let ruleset = self.ruleset(family);
        let mut differs = Chain::Capture;
        for attempt in 1..=ATTEMPTS {
            let listings = self.iptables.read_both(family).await?;
            if let Some((committed, printed)) = self.printed.get(family)
                && *committed == ruleset
            {
                let damage = listing::compare(printed, &listings);
                if damage.is_empty() {
                    return Ok(());
                }
                if attempt == 1 {
                    repairs.extend(damage.into_iter().map(|damage| damage.repair(family)));
                }
            }
            let mut text = String::new();
            for (&table, listing) in &listings {
                let present: Vec<&str> = listing.our_jumps().collect();
                let made = &self.made.get(family)[table as usize];
                text.push_str(&render::commit(&ruleset, table, &present, made));
            }
            let committed = self.iptables.restore(family, &text).await;
            match listing::learn(&ruleset, &self.iptables.read_both(family).await?) {
                Ok(printed) if committed.is_ok() => {
                    *self.printed.get_mut(family) = Some((ruleset, printed));
                    return Ok(());
                }
                Ok(_) => {}
                Err(chain) => differs = chain,
            }
            if attempt == ATTEMPTS {
                committed?;
            }
        }
        Err(Error::RulesNotKept { family, chain: differs.as_str(), attempts: ATTEMPTS })
    }

    /// Learns from a predecessor's record, or else from the tables, what we create around our
    /// rules.
    async fn recall_or_probe(&mut self) -> Result<(), Error> {
        if self.flavour() == Flavour::Legacy {
            return Ok(());
        }
        let nft = command::find("nft");
        for &family in &self.families {
            for table in Table::ALL {
                let listing = self.iptables.read(family, table).await?;
                let made = match (Made::parse(&listing), &nft) {
                    (Some(made), _) => made,
                    // Rules without a record: created nothing, or nothing is known of it.
                    (None, _) if listing.our_chains().next().is_some() => Made::default(),
                    (None, Some(nft)) => created::probe(nft, family, table).await?,
                    (None, None) => Made::default(),
                };
                self.made.get_mut(family)[table as usize] = made;
            }
        }
        Ok(())
    }

    /// Takes away the rules that a predecessor left in the other iptables. Ours are in place.
    async fn leave_other_flavour(&self) -> Result<(), Error> {
        let Ok(other) = Iptables::find(self.flavour().other()).await else { return Ok(()) };
        if other.flavour() == self.flavour() {
            return Ok(());
        }
        for family in Family::BOTH {
            remove_flavour(&other, family, Extent::Known).await?;
        }
        Ok(())
    }
}

/// Which chains are looked through for ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Those this version makes. Cheap whatever else the tables hold.
    Known,
    /// All.
    Everything,
}

impl RuleDamage {
    fn repair(self, family: Family) -> Repair {
        match self {
            Self::Chain(chain) => Repair::Chain { family, chain: chain.as_str() },
            Self::Jump(jump, damage) => Repair::Jump {
                family,
                table: jump.chain.table().as_str(),
                hook: jump.hook.as_str(),
                damage,
            },
        }
    }
}

/// IPv4, and IPv6 where the node has it.
async fn usable_families(iptables: &Iptables) -> Result<Vec<Family>, Error> {
    let mut families = vec![Family::V4];
    if ipv6_is_off() {
        tracing::warn!("this node has no ipv6, its services are not captured");
    } else if let Some(reason) = iptables.unusable(Family::V6).await? {
        tracing::warn!(reason, "ip6tables does not work, ipv6 services are not captured");
    } else {
        families.push(Family::V6);
    }
    Ok(families)
}

/// The kernel has no IPv6, or `lo` must not have any (`net.ipv6.conf.all.disable_ipv6`).
pub(crate) fn ipv6_is_off() -> bool {
    let switch = std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    !switch.is_ok_and(|switch| switch.trim() == "0")
}
