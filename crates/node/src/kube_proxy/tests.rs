//! Aim: the file is read as kube-proxy reads it, faults say where and what, and docs/flags.md lists
//! exactly the settings there are.

use std::collections::BTreeSet;

use super::file::{Configuration, parse_for_test};
use super::settings::{Here, SETTINGS, Setting};

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn read(fields: &str) -> Result<Configuration, String> {
    parse_for_test(&format!("{HEAD}{fields}"))
}

fn given(fields: &str) -> Vec<(&'static str, String)> {
    let configuration = read(fields).expect("is accepted");
    let pair = |given: &super::file::Given| (given.setting.field, given.value.to_string());
    configuration.given.iter().map(pair).collect()
}

#[test]
fn what_is_not_set_or_set_to_nothing_takes_the_default() {
    for fields in [
        "",
        "mode: \"\"",
        "ipvs:",
        "ipvs: {scheduler: \"\", syncPeriod: 0s, excludeCIDRs: null}",
        "iptables: {masqueradeBit: null, localhostNodePorts: true, masqueradeAll: false}",
        "conntrack: {maxPerCore: 0, tcpCloseWaitTimeout: 0}",
        "logging: {flushFrequency: 0, options: {json: {infoBufferSize: \"0\"}}, verbosity: 0}",
        "oomScoreAdj: null",
        "winkernel: {enableDSR: false, networkName: \"\"}",
        "featureGates: {}",
    ] {
        assert_eq!(given(fields), [], "{fields}");
    }
}

#[test]
fn what_is_set_is_read_as_written() {
    for (fields, field, value) in [
        ("mode: ipvs", "mode", "\"ipvs\""),
        ("ipvs: {scheduler: lc}", "ipvs.scheduler", "\"lc\""),
        ("iptables: {syncPeriod: 1h30m}", "iptables.syncPeriod", "\"1h30m\""),
        ("oomScoreAdj: 0", "oomScoreAdj", "0"),
        ("iptables: {localhostNodePorts: false}", "iptables.localhostNodePorts", "false"),
        ("nodePortAddresses: [10.0.0.0/8]", "nodePortAddresses", "[\"10.0.0.0/8\"]"),
        ("featureGates: {A: true}", "featureGates", "{\"A\":true}"),
        ("healthzBindAddress: '[::]:10256'", "healthzBindAddress", "\"[::]:10256\""),
        ("{\"mode\": \"nftables\"}", "mode", "\"nftables\""),
    ] {
        let found = if fields.starts_with('{') {
            let json = fields.replacen(
                '{',
                "{\"apiVersion\": \"kubeproxy.config.k8s.io/v1alpha1\", \
                 \"kind\": \"KubeProxyConfiguration\", ",
                1,
            );
            let configuration = parse_for_test(&json).expect("is accepted");
            vec![(configuration.given[0].setting.field, configuration.given[0].value.to_string())]
        } else {
            given(fields)
        };
        assert_eq!(found, [(field, value.to_owned())], "{fields}");
    }
}

#[test]
fn a_wrong_value_is_refused_with_file_line_field_and_what_is_accepted() {
    for (fields, fault) in [
        (
            "ipvs:\n  scheduler: fastest",
            "config.conf:4: ipvs.scheduler cannot be \"fastest\", one of rr, random, lc, ",
        ),
        ("ipvs: {syncPeriod: 30}", "config.conf:3: ipvs.syncPeriod cannot be 30, a duration"),
        ("ipvs: {syncPeriod: -1s}", "config.conf:3: ipvs.syncPeriod cannot be \"-1s\""),
        ("ipvs: rr", "config.conf:3: ipvs cannot be \"rr\", a mapping of fields is needed"),
        ("ipvs: {excludeCIDRs: a}", "config.conf:3: ipvs.excludeCIDRs cannot be \"a\", a list"),
        ("bindAddressHardFail: perhaps", "config.conf:3: bindAddressHardFail cannot be"),
        ("oomScoreAdj: 1001", "config.conf:3: oomScoreAdj cannot be 1001, a whole number from"),
        ("oomScoreAdj: [1]", "config.conf:3: oomScoreAdj cannot be a list"),
        ("mode: userspace", "config.conf:3: mode cannot be \"userspace\", one of iptables"),
        ("healthzBindAddress: here", "config.conf:3: healthzBindAddress cannot be \"here\""),
        ("metricsBindAddress: 10249", "config.conf:3: metricsBindAddress cannot be 10249"),
        ("bindAddress: 10", "config.conf:3: bindAddress cannot be 10, an IP address"),
        ("logging: {format: xml}", "config.conf:3: logging.format cannot be \"xml\""),
        ("windowsRunAsService: true", "config.conf:3: windowsRunAsService is refused: streamvs"),
        ("mode: {", "config.conf:"),
    ] {
        let found = read(fields).expect_err(fields);
        assert!(found.starts_with(fault), "{fields}: {found}");
    }
}

#[test]
fn another_document_is_refused() {
    for (document, fault) in [
        ("[]", "is no KubeProxyConfiguration"),
        ("", "config.conf"),
        ("kind: KubeProxyConfiguration", "config.conf: apiVersion is missing"),
        (
            "apiVersion: v1\nkind: Config",
            "config.conf:1: apiVersion is \"v1\", kubeproxy.config.k8s.io/v1alpha1 is needed",
        ),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: Config",
            "config.conf:2: kind is \"Config\", KubeProxyConfiguration is needed",
        ),
    ] {
        let found = parse_for_test(document).expect_err(document);
        assert!(found.contains(fault), "{document}: {found}");
    }
}

#[test]
fn unknown_fields_are_named_with_their_line() {
    let configuration = read("ipvs:\n  speed: 9\nlinux: {}\nmode: ipvs").expect("is accepted");
    let unknown: Vec<_> =
        configuration.unknown.iter().map(|unknown| (&*unknown.field, unknown.line)).collect();
    assert_eq!(unknown, [("ipvs.speed", 4), ("linux", 5)]);
    assert_eq!(configuration.given.len(), 1);
}

#[test]
fn each_setting_is_there_once_with_a_default_of_its_kind() {
    let mut fields = BTreeSet::new();
    let mut flags = BTreeSet::new();
    for setting in SETTINGS {
        assert!(setting.field.is_empty() || fields.insert(setting.field), "{setting:?}");
        assert!(setting.flag.is_empty() || flags.insert(setting.flag), "{setting:?}");
        assert!(!setting.field.is_empty() || !setting.flag.is_empty());
        assert!(!setting.default().is_null(), "{setting:?}");
    }
}

/// A row of the table in docs/flags.md.
fn row(setting: &Setting) -> String {
    let cell = |dashes: &str, name: &str| match name {
        "" => "-".to_owned(),
        name => format!("`{dashes}{name}`"),
    };
    let (here, remark) = match setting.here {
        Here::Used(name) => ("used", format!("`--{}`", long(name))),
        Here::Ignored(reason) => ("no effect", reason.to_owned()),
        Here::Refused(reason) => ("refused", reason.to_owned()),
    };
    let dashes = if setting.flag.len() == 1 { "-" } else { "--" };
    format!("| {} | {} | {here} | {remark} |", cell(dashes, setting.flag), cell("", setting.field))
}

fn long(name: &str) -> String {
    let command = crate::invocation::command();
    let run = command.find_subcommand("run").expect("there is run");
    let argument = run.get_arguments().find(|argument| argument.get_id() == name);
    argument.and_then(clap::Arg::get_long).expect("it is a flag of ours").to_owned()
}

#[test]
fn docs_list_exactly_the_settings() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/flags.md");
    let docs = std::fs::read_to_string(path).expect("docs/flags.md is there");
    let table = docs.split("| kube-proxy's flag | its field |").nth(1).expect("the table is there");
    let documented: Vec<_> =
        table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let expected: Vec<_> = SETTINGS.iter().map(row).collect();
    assert_eq!(documented, expected, "docs/flags.md should have:\n{}", expected.join("\n"));
}

/// A file in which somebody has typed: pieces replaced by what means something in YAML.
#[test]
fn any_edit_of_a_file_is_taken_or_refused_with_a_reason() {
    const TOKENS: [&str; 24] = [
        "",
        " ",
        "\n",
        "\t",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "&a ",
        "*a",
        "<<: *a",
        "---\n",
        "null",
        "-1",
        "1e999",
        "99999999999999999999",
        "0s",
        "true",
        "!!binary ",
        "\u{e9}",
    ];
    let file = format!(
        "{HEAD}mode: ipvs\nipvs: {{scheduler: lc, syncPeriod: 30s, excludeCIDRs: [10.0.0.0/8]}}\n\
         iptables:\n  masqueradeBit: 14\n  masqueradeAll: true\nnodePortAddresses: [primary]\n\
         oomScoreAdj: -999\nfeatureGates: {{A: true}}\nhealthzBindAddress: '[::]:10256'\n"
    );
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..2000 {
        let mut text = file.clone();
        for _ in 0..rng.usize(1..5) {
            let boundary = |at: usize| (0..=at).rev().find(|at| text.is_char_boundary(*at));
            let from = boundary(rng.usize(..=text.len())).unwrap_or_default();
            let to = boundary((from + rng.usize(..12)).min(text.len())).unwrap_or(from).max(from);
            text.replace_range(from..to, TOKENS[rng.usize(..TOKENS.len())]);
        }
        match parse_for_test(&text) {
            Ok(_) => taken += 1,
            Err(reason) => {
                assert!(reason.starts_with("config.conf"), "seed {seed}, round {round}: {reason}");
                refused += 1;
            }
        }
    }
    assert!(taken > 100 && refused > 100, "seed {seed}: {taken} taken, {refused} refused");
}
