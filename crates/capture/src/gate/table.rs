//! The nf_tables table that is the gate: what is in it, as messages.
//!
//! ```text
//! table inet streamvs-gate-<id> {
//!     flags owner
//!     set lease { type inet_proto; flags dynamic,timeout; timeout 500ms; size 64 }
//!     chain prerouting { type filter hook prerouting priority -110
//!         ct state new meta l4proto @lease meta mark set meta mark | 0x4 }
//!     chain output { type filter hook output priority -110
//!         (the same) }
//!     chain heartbeat { type filter hook output priority -300
//!         meta mark 0x5 meta l4proto udp meta oif 1 udp sport 40000 update @lease { tcp } drop }
//! }
//! ```
//!
//! Source: linux/netfilter/nf_tables.h.

use std::io;
use std::time::Duration;

use super::nfnetlink::{APPEND, Attributes, Batch, CREATE, Channel, EXCLUSIVE};

/// Every gate's table begins so; one without owner is called so.
pub(crate) const NAME: &str = "streamvs-gate";

/// `NFPROTO_INET`.
const INET: u8 = 1;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;

/// `NFT_TABLE_F_OWNER`: the table goes when the socket that made it is closed, and nobody else can
/// change or delete it. Linux 5.12.
const OWNER: u32 = 0x2;

/// `NF_INET_PRE_ROUTING` and `NF_INET_LOCAL_OUT`.
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;

/// After the mangle table (-150), whose rules may set the whole mark, and before every chain that
/// captures or translates (-105 and -100).
const BEFORE_CAPTURE: i32 = -110;

/// Before connection tracking (-200), so that a heartbeat costs no entry.
const BEFORE_TRACKING: i32 = -300;

/// `NFT_REG_1` and `NFT_REG_VERDICT`.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// Elements of the lease: one, and those that ran out in the last second and are not yet collected.
const LEASES: u32 = 64;

/// What the table's rules are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The mark bit that says "open".
    pub(super) bit: u32,
    /// The mark of a heartbeat, whole.
    pub(super) heartbeat: u32,
    /// The port that our heartbeats come from. An owned table takes no others, for there are two
    /// gates while one agent takes over from another.
    pub(super) port: u16,
    /// How long a heartbeat keeps the gate open.
    pub(super) timeout: Duration,
}

/// Makes the table, and its name. The gate is shut until the first heartbeat.
///
/// Without `owned` the table has no owner, and one that a predecessor left is replaced.
pub(super) fn make(channel: &Channel, plan: Plan, owned: bool) -> io::Result<String> {
    let name = if owned { format!("{NAME}-{}", channel.id()?) } else { NAME.to_owned() };
    let mut batch = Batch::new();
    if !owned {
        batch.message(NEW_TABLE, CREATE, INET, |table| table.text(1, &name));
        batch.message(DELETE_TABLE, 0, INET, |table| table.text(1, &name));
    }
    batch.message(NEW_TABLE, CREATE | EXCLUSIVE, INET, |table| {
        table.text(1, &name);
        table.number(2, if owned { OWNER } else { 0 });
    });
    lease(&mut batch, &name, plan.timeout);
    for (chain, hook) in [("prerouting", PREROUTING), ("output", OUTPUT)] {
        make_chain(&mut batch, &name, chain, hook, BEFORE_CAPTURE);
        make_rule(&mut batch, &name, chain, |rule| {
            first_of_its_connection(rule);
            load(rule, Meta::Protocol);
            rule.expression("lookup", |lookup| {
                lookup.text(1, "lease");
                lookup.number(2, REGISTER);
            });
            load(rule, Meta::Mark);
            bitwise(rule, !plan.bit, plan.bit);
            rule.expression("meta", |meta| {
                meta.number(2, Meta::Mark as u32);
                meta.number(3, REGISTER);
            });
        });
    }
    make_chain(&mut batch, &name, "heartbeat", OUTPUT, BEFORE_TRACKING);
    make_rule(&mut batch, &name, "heartbeat", |rule| {
        load(rule, Meta::Mark);
        compare(rule, true, &plan.heartbeat.to_ne_bytes());
        load(rule, Meta::Protocol);
        compare(rule, true, &[IPPROTO_UDP]);
        // `lo` has this index in every network namespace.
        load(rule, Meta::OutgoingInterface);
        compare(rule, true, &1u32.to_ne_bytes());
        if owned {
            source_port(rule);
            compare(rule, true, &plan.port.to_be_bytes());
        }
        rule.expression("immediate", |immediate| {
            immediate.number(1, REGISTER);
            immediate.nest(2, |data| data.octets(1, &[IPPROTO_TCP]));
        });
        rule.expression("dynset", |update| {
            update.text(1, "lease");
            update.number(3, 1);
            update.number(4, REGISTER);
            update.long(6, milliseconds(plan.timeout));
        });
        rule.expression("immediate", |immediate| {
            immediate.number(1, VERDICT);
            immediate.nest(2, |data| data.nest(2, |verdict| verdict.number(1, 0)));
        });
    });
    channel.commit(batch)?;
    Ok(name)
}

/// Takes the table away.
pub(super) fn remove(channel: &Channel, name: &str) -> io::Result<()> {
    let mut batch = Batch::new();
    batch.message(DELETE_TABLE, 0, INET, |table| table.text(1, name));
    channel.commit(batch)
}

fn lease(batch: &mut Batch, table: &str, timeout: Duration) {
    /// `NFT_SET_TIMEOUT` and `NFT_SET_EVAL`.
    const FLAGS: u32 = 0x10 | 0x20;
    /// What `nft` calls `inet_proto`.
    const INET_PROTO: u32 = 12;
    batch.message(NEW_SET, CREATE, INET, |set| {
        set.text(1, table);
        set.text(2, "lease");
        set.number(3, FLAGS);
        set.number(4, INET_PROTO);
        set.number(5, 1);
        set.nest(9, |description| description.number(1, LEASES));
        set.number(10, 1);
        set.long(11, milliseconds(timeout));
    });
}

fn make_chain(batch: &mut Batch, table: &str, name: &str, hook: u32, priority: i32) {
    batch.message(NEW_CHAIN, CREATE, INET, |chain| {
        chain.text(1, table);
        chain.text(3, name);
        chain.nest(4, |place| {
            place.number(1, hook);
            place.octets(2, &priority.to_be_bytes());
        });
        // NF_ACCEPT, for what no rule decides.
        chain.number(5, 1);
        chain.text(7, "filter");
    });
}

fn make_rule(
    batch: &mut Batch,
    table: &str,
    chain: &str,
    expressions: impl FnOnce(&mut Attributes<'_>),
) {
    batch.message(NEW_RULE, CREATE | APPEND, INET, |rule| {
        rule.text(1, table);
        rule.text(2, chain);
        rule.nest(4, expressions);
    });
}

impl Attributes<'_> {
    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
        self.nest(1, |element| {
            element.text(1, name);
            element.nest(2, data);
        });
    }
}

/// What is known of a packet besides its octets (`NFT_META_*`).
#[derive(Clone, Copy, Debug)]
enum Meta {
    Mark = 3,
    OutgoingInterface = 5,
    Protocol = 16,
}

fn load(rule: &mut Attributes<'_>, what: Meta) {
    rule.expression("meta", |meta| {
        meta.number(1, REGISTER);
        meta.number(2, what as u32);
    });
}

/// Of a UDP packet.
fn source_port(rule: &mut Attributes<'_>) {
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`, at whose beginning the source port stands.
    const TRANSPORT_HEADER: u32 = 2;
    rule.expression("payload", |payload| {
        payload.number(1, REGISTER);
        payload.number(2, TRANSPORT_HEADER);
        payload.number(3, 0);
        payload.number(4, 2);
    });
}

/// Goes on if the register equals, or differs from, a value.
fn compare(rule: &mut Attributes<'_>, equal: bool, value: &[u8]) {
    rule.expression("cmp", |comparison| {
        comparison.number(1, REGISTER);
        comparison.number(2, u32::from(!equal));
        comparison.nest(3, |data| data.octets(1, value));
    });
}

/// register = (register & mask) ^ flip
fn bitwise(rule: &mut Attributes<'_>, mask: u32, flip: u32) {
    rule.expression("bitwise", |bitwise| {
        bitwise.number(1, REGISTER);
        bitwise.number(2, REGISTER);
        bitwise.number(3, 4);
        bitwise.nest(4, |data| data.octets(1, &mask.to_ne_bytes()));
        bitwise.nest(5, |data| data.octets(1, &flip.to_ne_bytes()));
    });
}

/// `ct state new`: three short steps, which end the walk of every later packet.
fn first_of_its_connection(rule: &mut Attributes<'_>) {
    /// `NF_CT_STATE_BIT(IP_CT_NEW)`.
    const NEW: u32 = 1 << 3;
    rule.expression("ct", |ct| {
        ct.number(1, REGISTER);
        ct.number(2, 0);
    });
    bitwise(rule, NEW, 0);
    compare(rule, false, &0u32.to_ne_bytes());
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
