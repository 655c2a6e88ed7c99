//! The program `streamvs` on a node made of network namespaces, with real rules and real sockets.
//!
//! Each file is a promise to an operator; each test is a sentence of it. They need root, and the
//! program built: `scripts/test` sees to both. A test fails where something is missing, unless
//! `STREAMVS_SKIP_PRIVILEGED=1` turns that into a line which says so.
//!
//! - `spread`: where streams go, under each scheduler, in each shape of a node.
//! - `updates`: endpoints come and go under load.
//! - `faults`: endpoints that are dead while the table calls them ready.
//! - `tcp`: everything that is not HTTP/2.
//! - `gate`: a dead or hanging agent leaves new connections to whoever is behind it.
//! - `deaths`: what a killed, a hanging and a starved agent cost under load, as a table.
//! - `guard`: the listener cannot be abused, and nothing is captured twice.
//! - `kernel`: in place of kube-proxy, UDP, SCTP and who takes over when the agent is gone.
//! - `dns`: UDP at a high rate while endpoints change.
//! - `scale`: what the kernel path costs among 10,000 Services.
//! - `damage`: noise at its doors, and its names used by others.
//! - `lifecycle`: start, crash, repair, cleaning up, wrong files.
//! - `log`: what the log's readers may rely on.
//! - `stop`: calls and connections at SIGTERM.
//! - `check`: what is told of a node before the first start.
//! - `client_ip`: whom endpoints see.
//! - `upgrade`: one agent takes over from another.
//! - `privileges`: what a taken-over agent could not do.
//! - `face`: kube-proxy's configuration file and pages.
//! - `internal`: ClusterIPs whose endpoints are all, or those of this node alone.
//! - `outside`: node ports, load balancers' addresses and who may use them.
//! - `outside_udp`: the same by UDP, SCTP, and TCP while the agent is away.
//! - `outside_seen`: whom endpoints see where clients outside have a policy of their own.
//! - `vanish`: peers that are gone without a word.
//! - `peers`: programs nobody here wrote.
//! - `demo`: what the README says the demonstration shows.

#[cfg(test)]
mod check;
#[cfg(test)]
mod client_ip;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod deaths;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod dns;
#[cfg(test)]
mod face;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod gate;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod internal;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod knocking;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod log;
#[cfg(test)]
mod outside;
#[cfg(test)]
mod outside_seen;
#[cfg(test)]
mod outside_udp;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod privileges;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod spread;
#[cfg(test)]
mod stop;
#[cfg(test)]
mod tcp;
#[cfg(test)]
mod updates;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod vanish;
