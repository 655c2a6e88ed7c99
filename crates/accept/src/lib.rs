//! Takes captured connections from the kernel and follows each to its end.
//!
//! ```text
//! accept -> whose was it? -> admit -> first bytes -> pick -> relay -> record
//!           original_dst     table    detect         balance  relay
//! ```
//!
//! `connection` is the spine: it reads as that line. What comes in: sockets of
//! the listener. What goes out: nothing but side effects, each connection ending in one record.
//! Never here: Kubernetes, iptables (who accepted a connection knows its original destination
//! through [`OriginalDestination`]), and any choice between endpoints.
//!
//! Which way it errs: a connection whose original destination is not a known Service address is
//! reset. So somebody who connects to the listener itself gets nothing.

mod connection;
mod handover;
mod http2;
mod limits;
mod listener;
mod opening;
mod origin;
mod original_dst;
mod record;
mod run;

pub use handover::{Facts, Handover, Passed, Stage};
pub use listener::{Listener, bind};
pub use origin::ClientOrigin;
pub use original_dst::OriginalDestination;
pub use record::{OnRefused, RefusalReason};
pub use run::{Config, run};
