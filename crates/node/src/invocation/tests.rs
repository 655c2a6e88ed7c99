//! Aim: what is given on the command line and in the file comes out in the options, or in a notice
//! that says why not.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::cli::{LogFormat, RunOptions};

const KUBEADM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/kubeadm/config.conf");

fn arguments(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(Into::into).collect()
}

struct Run {
    options: RunOptions,
    notices: Vec<String>,
    settings: Settings,
}

fn run(flags: &str) -> Run {
    run_of(&format!("streamvs run --manifests m {flags}"))
}

fn run_of(line: &str) -> Run {
    let invocation = match read(arguments(line)) {
        Ok(invocation) => invocation,
        Err(refusal) => panic!("{line}: {refusal:?}"),
    };
    let Command::Run(options) = invocation.command else { panic!("is run") };
    let notices = invocation.notices.iter().map(Notice::to_string).collect();
    Run { options: *options, notices, settings: invocation.settings }
}

fn with_file(fields: &str, flags: &str) -> Run {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("config.conf");
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    fs::write(&path, format!("{head}{fields}")).expect("is written");
    run(&format!("--config {} {flags}", path.display()))
}

fn refused(line: &str) -> String {
    match read(arguments(line)) {
        Ok(_) => panic!("{line} is accepted"),
        Err(Refusal::Usage(error)) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            error.to_string()
        }
        Err(Refusal::File(fault)) => fault.to_string(),
    }
}

#[test]
fn unknown_scheduler_is_refused_with_the_list() {
    let message = refused("streamvs run --manifests m --ipvs-scheduler fastest");
    for name in ["fastest", "rr", "lc", "random", "twos"] {
        assert!(message.contains(name), "{name} in {message}");
    }
}

#[test]
fn wrong_values_are_refused() {
    for flags in [
        "--upstream-mark 0",
        "--iptables-sync-period 0s",
        "--listen-port 0",
        "--workers 0",
        "--capture ebpf",
        "--capture none --kube-proxy-replacement",
        "--kube-proxy-replacement=strict",
        "--service-cidrs 10.96.0.0",
        "--proxy-mode userspace",
        "--oom-score-adj 1001",
        "--conntrack-min many",
        "--masquerade-all=maybe",
        "--detect-local-mode nearby",
        "--config /does/not/exist",
        "--nonsense",
    ] {
        refused(&format!("streamvs run --manifests m {flags}"));
    }
}

#[test]
fn what_is_to_be_masqueraded_has_a_bit_of_its_own() {
    let refused = |flags: &str| refused(&format!("streamvs run --manifests m {flags}"));
    refused("--iptables-masquerade-bit=32");
    for flags in [
        "--iptables-masquerade-bit=0",
        "--iptables-masquerade-bit=2",
        "--upstream-mark=0x4000",
        "--upstream-mark=0x4 --iptables-masquerade-bit=3",
    ] {
        let message = refused(&format!("--kube-proxy-replacement {flags}"));
        assert!(message.contains("--iptables-masquerade-bit is one of"), "{message}");
        // It is kube-proxy's matter where there is one.
        run(flags);
    }
    assert_eq!(run("--kube-proxy-replacement --upstream-mark=0x4").options.upstream_mark, Some(4));
}

#[test]
fn the_api_server_and_manifests_are_not_asked_both() {
    for flags in ["--kubeconfig k", "--master https://192.0.2.1:6443"] {
        let message = refused(&format!("streamvs run --manifests m {flags}"));
        assert!(message.contains("--manifests") && message.contains("cannot be used"), "{message}");
    }
}

#[test]
fn a_files_kubeconfig_is_used_where_no_manifests_are_given() {
    let kubeconfig = run_of(&format!("streamvs run --config={KUBEADM}")).options.kubeconfig;
    assert_eq!(kubeconfig.as_deref(), Some(Path::new("/var/lib/kube-proxy/kubeconfig.conf")));
    let mine = run_of(&format!("streamvs run --config={KUBEADM} --kubeconfig=mine"));
    assert_eq!(mine.options.kubeconfig.as_deref(), Some(Path::new("mine")));
    assert_eq!(run_of("streamvs run --state-file=").options.state_file, Path::new(""));
}

#[test]
fn a_kubeadm_clusters_file_is_accepted_unchanged() {
    let kubeadm = run(&format!("--config={KUBEADM} --hostname-override=node-7"));
    let plain = run("--hostname-override=node-7");
    let but = |flags: &BTreeMap<String, String>| {
        let mut flags = flags.clone();
        flags.remove("config");
        flags.remove("bind-address");
        flags.remove("cluster-cidr");
        flags
    };
    assert_eq!(but(&kubeadm.settings.flags), but(&plain.settings.flags));
    assert_eq!(kubeadm.options.bind_address, Some("0.0.0.0".parse().expect("an address")));
    let names: Vec<_> =
        kubeadm.notices.iter().map(|notice| notice.split(' ').next().expect("a word")).collect();
    assert_eq!(names, ["clientConnection.kubeconfig"]);
    assert_eq!(kubeadm.settings.configuration["clusterCIDR"], "10.244.0.0/16");
    assert_eq!(kubeadm.settings.configuration["hostnameOverride"], "node-7");
    assert_eq!(kubeadm.settings.configuration["conntrack"]["maxPerCore"], 32768);
}

#[test]
fn fields_come_out_in_the_options() {
    let found = with_file(
        "mode: ipvs\nipvs: {scheduler: lc, syncPeriod: 20s, tcpTimeout: 15m0s, tcpFinTimeout: 2m}\n\
         hostnameOverride: node-7\nbindAddressHardFail: true\noomScoreAdj: -5\n\
         logging: {format: json, verbosity: 4}\nmetricsBindAddress: 0.0.0.0:9",
        "",
    );
    let options = &found.options;
    assert_eq!(options.ipvs_scheduler.as_str(), "lc");
    assert_eq!(options.iptables_sync_period, Duration::from_secs(20));
    assert_eq!(options.ipvs_tcp_timeout, Duration::from_secs(900));
    assert_eq!(options.ipvs_tcpfin_timeout, Duration::from_secs(120));
    assert_eq!(options.hostname_override.as_deref(), Some("node-7"));
    assert!(options.bind_address_hard_fail);
    assert_eq!(options.oom_score_adj, -5);
    assert_eq!(options.log.log_format, LogFormat::Json);
    assert_eq!(options.log.verbosity, tracing::Level::DEBUG);
    assert_eq!(found.settings.flags["metrics-bind-address"], "0.0.0.0:9");
    assert_eq!(found.notices, [""; 0]);
}

#[test]
fn flags_win_over_the_file() {
    let fields = "ipvs: {scheduler: lc}\noomScoreAdj: -5\nlogging: {verbosity: 4}";
    let found = with_file(fields, "--ipvs-scheduler=sed -v=0");
    assert_eq!(found.options.ipvs_scheduler.as_str(), "sed");
    assert_eq!(found.options.log.verbosity, tracing::Level::INFO);
    assert_eq!(found.options.oom_score_adj, -5);
    assert_eq!(found.settings.configuration["ipvs"]["scheduler"], "sed");
    assert_eq!(found.settings.configuration["logging"]["verbosity"], 0);
}

#[test]
fn the_sync_period_is_that_of_the_modes_section() {
    let fields = |mode| {
        format!(
            "mode: '{mode}'\niptables: {{syncPeriod: 11s}}\nipvs: {{syncPeriod: 12s}}\n\
             nftables: {{syncPeriod: 13s}}"
        )
    };
    for (mode, seconds) in [("", 11), ("iptables", 11), ("ipvs", 12), ("nftables", 13)] {
        let found = with_file(&fields(mode), "");
        assert_eq!(found.options.iptables_sync_period, Duration::from_secs(seconds), "{mode}");
        assert_eq!(found.notices.len(), 2, "{:?}", found.notices);
    }
    let found = with_file(&fields("iptables"), "--proxy-mode=ipvs");
    assert_eq!(found.options.iptables_sync_period, Duration::from_secs(12));
}

#[test]
fn a_long_sync_period_is_bounded_and_said() {
    let found = run("--ipvs-sync-period=1m0s");
    assert_eq!(crate::config::sync_period(&found.options), Duration::from_secs(30));
    assert_eq!(found.notices, ["the sync period is more than 30s, which is used"]);
}

#[test]
fn an_empty_list_of_ranges_is_none_given() {
    let run = run("--cluster-cidr= --nodeport_addresses=");
    assert!(run.options.cluster_cidr.is_empty());
    assert_eq!(run.options.nodeport_addresses, [crate::cli::values::NodePortAddresses::Primary]);
    assert!(refused("streamvs run --manifests m --upstream-mark=").contains("--upstream-mark"));
}

#[test]
fn klogs_spellings_are_understood() {
    for (flags, level) in [
        ("--v=2", tracing::Level::INFO),
        ("--v=4", tracing::Level::DEBUG),
        ("-v=6", tracing::Level::TRACE),
        ("-v 4", tracing::Level::DEBUG),
        ("--v 4", tracing::Level::DEBUG),
        ("--v=2 --v=4", tracing::Level::DEBUG),
    ] {
        assert_eq!(run(flags).options.log.verbosity, level, "{flags}");
    }
    assert_eq!(run("--logging-format=json").options.log.log_format, LogFormat::Json);
    let found = run("--logtostderr=true --log_dir=/var/log --alsologtostderr");
    assert_eq!(found.notices, ["--log-dir has no effect: the log goes to standard error"]);
}

#[test]
fn each_flag_of_kube_proxy_is_accepted_and_named_where_it_has_no_effect() {
    for setting in SETTINGS.iter().filter(|setting| !setting.flag.is_empty()) {
        let value = match setting.kind {
            Kind::Bool => {
                if setting.default == "true" {
                    "false"
                } else {
                    "true"
                }
            }
            Kind::Integer | Kind::OomScore | Kind::Number => "7",
            Kind::Duration => "17s",
            Kind::List => "10.0.0.0/8,10.1.0.0/16",
            Kind::Gates => "A=true,B=false",
            Kind::Address | Kind::BindAddress => "192.0.2.1",
            Kind::Scheduler => "lc",
            Kind::Mode => "ipvs",
            Kind::LocalMode => "NodeCIDR",
            Kind::LogFormat => "json",
            Kind::Text if setting.flag == "cluster-cidr" => "10.0.0.0/8",
            Kind::Text | Kind::Anything => KUBEADM,
        };
        let found = run_of(&format!("streamvs run --{}={value}", setting.flag));
        let name = format!("--{} has no effect: ", setting.flag);
        let named = found.notices.iter().any(|notice| notice.starts_with(&name));
        assert_eq!(named, matches!(setting.here, Here::Ignored(_)), "{:?}", found.notices);
    }
}

#[test]
fn a_flag_set_to_what_is_the_case_anyway_is_not_worth_a_word() {
    for flags in ["--masquerade-all=false", "--profiling=false", "--conntrack-min=131072"] {
        assert_eq!(run(flags).notices, [""; 0], "{flags}");
    }
}

#[test]
fn the_written_configuration_reads_as_itself() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("written.yaml");
    let write = |options: &RunOptions, settings: &Settings| {
        crate::commands::instead_of_run(options, settings).expect("is written");
    };
    let found = with_file(
        "mode: ipvs\nipvs: {scheduler: lc, syncPeriod: 20s}\nfeatureGates: {A: true}",
        &format!("--write-config-to {}", path.display()),
    );
    write(&found.options, &found.settings);
    let again = run(&format!("--config {}", path.display()));
    assert_eq!(again.settings.configuration, found.settings.configuration);
    assert_eq!(again.options.ipvs_scheduler.as_str(), "lc");
}

#[test]
fn kube_proxys_other_commands_need_no_source_of_services() {
    for flag in ["--cleanup", "--cleanup=true", "--init-only", "--write-config-to=/dev/null"] {
        assert!(read(arguments(&format!("streamvs run {flag}"))).is_ok(), "{flag}");
    }
    assert!(Path::new(KUBEADM).with_file_name("kubeconfig.conf").exists());
}
