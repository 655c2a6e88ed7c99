//! Which system calls this process, and every program it runs, may make from now on.
//!
//! A list of what is allowed (`seccomp/measured.txt`, written by `scripts/system-calls` from what
//! the tests were seen to call, and `seccomp/more.txt`, which has the same things by other names).
//! Whatever is not in it fails with ENOSYS, as on a kernel that does not have it: libraries have a
//! second way for that, while nobody expects to be killed or forbidden. So a program that needs
//! more says which call failed instead of dying, and whoever has taken it over cannot mount, trace,
//! load or make namespaces. See docs/decisions/0017-seccomp-filter.md.

use std::fmt;

use seccompiler::{BpfProgram, TargetArch};
use serde_json::{Value, json};

use crate::cli::Seccomp;

const MEASURED: &str = include_str!("seccomp/measured.txt");
const MORE: &str = include_str!("seccomp/more.txt");

/// Names that x86_64 has from its early days, beside newer ones that are the only ones elsewhere.
const X86_64_ONLY: [&str; 32] = [
    "access",
    "alarm",
    "arch_prctl",
    "chmod",
    "chown",
    "creat",
    "dup2",
    "epoll_create",
    "epoll_wait",
    "eventfd",
    "fork",
    "getdents",
    "getpgrp",
    "inotify_init",
    "lchown",
    "link",
    "lstat",
    "mkdir",
    "open",
    "pause",
    "pipe",
    "poll",
    "readlink",
    "rename",
    "rmdir",
    "select",
    "signalfd",
    "stat",
    "symlink",
    "time",
    "unlink",
    "vfork",
];

/// AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK (socket(2)). AF_PACKET would show all that the node
/// sends and receives to who has CAP_NET_RAW.
const SOCKET_DOMAINS: [u64; 4] = [1, 2, 10, 16];

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET (clone(2)): in a namespace of
/// users everybody has all capabilities.
const NAMESPACES: u64 = 0x7e02_0000;

const ENOSYS: u32 = 38;

/// Why there is no filter. The agent goes on without.
#[derive(Debug)]
enum Failure {
    /// Nobody has named the calls of this machine.
    Machine(seccompiler::BackendError),
    /// The list, or the kernel's or the container runtime's refusal.
    Filter(seccompiler::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(error) => error.fmt(f),
            Self::Filter(error) => error.fmt(f),
        }
    }
}

/// Puts the filter in force for the calling thread and all that it starts, for good. Returns
/// whether calls are refused by it now.
///
/// A kernel without filters, or a container runtime that forbids more of them, is no reason not to
/// serve: then there is a warning.
pub(crate) fn confine(seccomp: Seccomp) -> bool {
    if seccomp == Seccomp::False {
        return false;
    }
    let refuses = seccomp == Seccomp::True;
    let machine = TargetArch::try_from(std::env::consts::ARCH).map_err(Failure::Machine);
    let applied = machine.and_then(|machine| {
        let program = program(machine, refuses).map_err(Failure::Filter)?;
        seccompiler::apply_filter(&program).map_err(Failure::Filter)
    });
    match applied {
        Ok(()) => {
            tracing::info!(refuses, "system calls are filtered");
            refuses
        }
        Err(failure) => {
            tracing::warn!(%failure, "system calls are not filtered");
            false
        }
    }
}

/// The program for the kernel. Where it does not refuse, the kernel logs what it would.
fn program(machine: TargetArch, refuses: bool) -> Result<BpfProgram, seccompiler::Error> {
    let otherwise = if refuses { json!({ "errno": ENOSYS }) } else { json!("log") };
    let rules: Vec<Value> = allowed(machine).flat_map(rules).collect();
    let filter = json!({ "mismatch_action": otherwise, "match_action": "allow", "filter": rules });
    let text = json!({ "agent": filter }).to_string();
    let mut programs = seccompiler::compile_from_json(text.as_bytes(), machine)?;
    Ok(programs.remove("agent").unwrap_or_default())
}

/// The names in the lists that this machine has.
fn allowed(machine: TargetArch) -> impl Iterator<Item = &'static str> {
    let lines = MEASURED.lines().chain(MORE.lines());
    let mut names: Vec<_> =
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    names.sort_unstable();
    names.dedup();
    let has = move |name: &&str| machine == TargetArch::x86_64 || !X86_64_ONLY.contains(name);
    names.into_iter().filter(has)
}

/// How a call is allowed: each rule is one way.
fn rules(name: &str) -> Vec<Value> {
    let first = |kind: &str, op: Value, value: u64| {
        let argument = json!({ "index": 0, "type": kind, "op": op, "val": value });
        json!({ "syscall": name, "args": [argument] })
    };
    match name {
        "clone" => vec![first("qword", json!({ "masked_eq": NAMESPACES }), 0)],
        "socket" => {
            SOCKET_DOMAINS.iter().map(|&domain| first("dword", json!("eq"), domain)).collect()
        }
        _ => vec![json!({ "syscall": name })],
    }
}

#[cfg(test)]
mod tests {
    //! Aim: both machines know every name, and what must never be there is not. What the kernel
    //! makes of it is tested in namespaces.

    use super::*;

    const MACHINES: [TargetArch; 2] = [TargetArch::x86_64, TargetArch::aarch64];

    #[test]
    fn the_lists_are_known_to_both_machines() {
        for machine in MACHINES {
            for refuses in [true, false] {
                let program = program(machine, refuses).unwrap_or_else(|error| {
                    panic!("{machine:?}: {error}");
                });
                // BPF_MAXINSNS of the kernel.
                assert!((100..4096).contains(&program.len()), "{machine:?}: {}", program.len());
            }
        }
    }

    #[test]
    fn what_reaches_further_is_in_no_list() {
        for name in [
            "add_key",
            "bpf",
            "chroot",
            "clone3",
            "delete_module",
            "finit_module",
            "init_module",
            "io_uring_setup",
            "kexec_load",
            "keyctl",
            "mount",
            "open_by_handle_at",
            "perf_event_open",
            "personality",
            "pivot_root",
            "process_vm_readv",
            "process_vm_writev",
            "ptrace",
            "reboot",
            "request_key",
            "seccomp",
            "setns",
            "settimeofday",
            "swapon",
            "syslog",
            "umount2",
            "unshare",
            "userfaultfd",
        ] {
            for machine in MACHINES {
                assert!(allowed(machine).all(|allowed| allowed != name), "{name}");
            }
        }
    }
}
