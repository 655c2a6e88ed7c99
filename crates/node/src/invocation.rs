//! From the program's arguments, and the file they name, to what is to be done.
//!
//! A configuration file stands for flags: its fields are put before the flags of the command line,
//! unless the same flag is there (or in the environment) already. So both are read by the same
//! rules, and what was given explicitly wins. kube-proxy instead ignores most flags beside
//! `--config`, without a word.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches};
use serde_json::{Map, Value};

use crate::cli::{CaptureMode, Cli, Command};
use crate::kube_proxy::effective;
use crate::kube_proxy::file::{self, Configuration, Given};
use crate::kube_proxy::kind::Kind;
use crate::kube_proxy::settings::{Here, SETTINGS, Setting};

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) command: Command,
    /// What was given and has no effect.
    pub(crate) notices: Vec<Notice>,
    /// Only for `run`.
    pub(crate) settings: Settings,
}

/// What `run` goes by.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    /// In the form of kube-proxy's file.
    pub(crate) configuration: Map<String, Value>,
    /// Each flag of ours with its value, given or not.
    pub(crate) flags: BTreeMap<String, String>,
}

/// Something given that has no effect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// It is known and does nothing here.
    Ignored { name: String, reason: &'static str },
    /// It counts in another mode of kube-proxy only.
    OtherMode { field: &'static str },
    /// The file has a field nobody knows.
    Unknown { field: String, line: u64 },
    /// It is kept below the bound.
    Bounded { name: &'static str, bound: &'static str },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignored { name, reason } => write!(f, "{name} has no effect: {reason}"),
            Self::OtherMode { field } => {
                write!(f, "{field} has no effect: mode says that another section counts")
            }
            Self::Unknown { field, line } => {
                write!(f, "{field} in line {line} of the configuration file is no known field")
            }
            Self::Bounded { name, bound } => {
                write!(f, "{name} is more than {bound}, which is used")
            }
        }
    }
}

/// Why nothing can be done: exit code 2.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The arguments, or a call for help.
    Usage(clap::Error),
    /// The configuration file.
    File(file::Fault),
}

/// Reads the arguments, the program's name first, and the file they name.
pub(crate) fn read(arguments: Vec<OsString>) -> Result<Invocation, Refusal> {
    let mut arguments: Vec<_> =
        arguments.into_iter().map(with_dashes).filter(|argument| !is_unset(argument)).collect();
    let mut matches = parse(&arguments)?;
    let Some(run) = matches.subcommand_matches("run") else {
        let cli = Cli::from_arg_matches(&matches).map_err(Refusal::Usage)?;
        let (notices, settings) = Default::default();
        return Ok(Invocation { command: cli.command, notices, settings });
    };
    let given = |name: &str| explicit(run, name);
    let mut notices = ignored_flags(run);
    let configuration = match run.get_one::<std::path::PathBuf>("config") {
        Some(path) => file::read(path).map_err(Refusal::File)?,
        None => Configuration::default(),
    };
    let text = |flag: &str| explicit_text(run, flag);
    let effective = effective::configuration(&configuration.given, text);
    let mode = given("proxy_mode")
        .then(|| explicit_text(run, "proxy-mode"))
        .flatten()
        .or_else(|| text_of(&configuration.given, "mode"))
        .unwrap_or_default();
    let flags = flags_of(&configuration.given, &mode, given, &mut notices);
    notices.extend(
        configuration
            .unknown
            .into_iter()
            .map(|unknown| Notice::Unknown { field: unknown.field, line: unknown.line }),
    );
    if !flags.is_empty() {
        let after_run = arguments.iter().position(|argument| argument == "run");
        let after_run = after_run.expect("a subcommand stands in the arguments") + 1;
        arguments.splice(after_run..after_run, flags);
        matches = parse(&arguments)?;
    }
    let run = matches.subcommand_matches("run").expect("the subcommand is the same");
    let settings = Settings { configuration: effective, flags: flagz(run) };
    let cli = Cli::from_arg_matches(&matches).map_err(Refusal::Usage)?;
    if let Command::Run(options) = &cli.command
        && options.kube_proxy_replacement
        && options.capture == CaptureMode::None
    {
        let text = "--kube-proxy-replacement cannot be used with --capture none: capture refuses \
                    what has no endpoints";
        return Err(Refusal::Usage(command().error(ErrorKind::ArgumentConflict, text)));
    }
    if let Command::Run(options) = &cli.command
        && options.kube_proxy_replacement
        && crate::config::marks_clash(options)
    {
        let text = "--iptables-masquerade-bit is one of --upstream-mark's bits, or of the two \
                    lowest from 0x4 that are none of them, by which connections are captured and \
                    answers led to the agent";
        return Err(Refusal::Usage(command().error(ErrorKind::ArgumentConflict, text)));
    }
    if let Command::Run(options) = &cli.command
        && options.iptables_sync_period > crate::cli::values::MAX_SYNC_PERIOD
    {
        notices.push(Notice::Bounded { name: "the sync period", bound: "30s" });
    }
    Ok(Invocation { command: cli.command, notices, settings })
}

fn parse(arguments: &[OsString]) -> Result<ArgMatches, Refusal> {
    command().try_get_matches_from(arguments).map_err(Refusal::Usage)
}

/// The command line with kube-proxy's flags that have no effect, which no help shows.
pub(crate) fn command() -> clap::Command {
    let ignored = SETTINGS.iter().filter(|setting| is_ignored_flag(setting)).map(|setting| {
        let kind = setting.kind;
        let argument = Arg::new(setting.flag)
            .long(setting.flag)
            .hide(true)
            .allow_hyphen_values(true)
            .value_parser(move |text: &str| kind.parse(text));
        match kind {
            // As Go has it: `--flag` is true, and a value needs the sign.
            Kind::Bool => {
                argument.num_args(0..=1).require_equals(true).default_missing_value("true")
            }
            _ => argument,
        }
    });
    Cli::command().mut_subcommand("run", |run| run.args(ignored))
}

fn is_ignored_flag(setting: &Setting) -> bool {
    !setting.flag.is_empty() && !matches!(setting.here, Here::Used(_))
}

/// kube-proxy takes underscores for dashes in the names of flags.
fn with_dashes(argument: OsString) -> OsString {
    let Some(text) = argument.to_str().filter(|text| text.starts_with("--")) else {
        return argument;
    };
    let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
    if name.contains('_') { (name.replace('_', "-") + value).into() } else { argument }
}

/// kube-proxy takes an empty list of ranges for none given, as templates write it.
fn is_unset(argument: &OsString) -> bool {
    let flag = argument.to_str().and_then(|text| text.strip_prefix("--")?.strip_suffix('='));
    flag.is_some_and(|flag| ["cluster-cidr", "nodeport-addresses"].contains(&flag))
}

/// It is on the command line or in the environment.
fn explicit(run: &ArgMatches, name: &str) -> bool {
    let source = run.try_contains_id(name).ok().and_then(|_| run.value_source(name));
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// The text of one of kube-proxy's flags, as far as it is given.
fn explicit_text(run: &ArgMatches, flag: &str) -> Option<String> {
    let setting = SETTINGS.iter().find(|setting| !flag.is_empty() && setting.flag == flag)?;
    let name = match setting.here {
        Here::Used(name) => name,
        Here::Ignored(_) | Here::Refused(_) => setting.flag,
    };
    if !explicit(run, name) {
        return None;
    }
    let raw = run.get_raw(name)?;
    Some(raw.map(|text| text.to_string_lossy()).collect::<Vec<_>>().join(","))
}

fn ignored_flags(run: &ArgMatches) -> Vec<Notice> {
    let mut notices = Vec::new();
    for setting in SETTINGS.iter().filter(|setting| is_ignored_flag(setting)) {
        let value =
            explicit_text(run, setting.flag).and_then(|text| setting.kind.parse(&text).ok());
        if let Here::Ignored(reason) = setting.here
            && value.is_some_and(|value| value != setting.default())
        {
            notices.push(Notice::Ignored { name: format!("--{}", setting.flag), reason });
        }
    }
    notices
}

fn text_of(given: &[Given], field: &str) -> Option<String> {
    let given = given.iter().find(|given| given.setting.field == field)?;
    given.value.as_str().map(str::to_owned)
}

/// The flags a file stands for.
fn flags_of(
    fields: &[Given],
    mode: &str,
    given: impl Fn(&str) -> bool,
    notices: &mut Vec<Notice>,
) -> Vec<OsString> {
    let command = command();
    let run = command.find_subcommand("run").expect("there is a subcommand run");
    let mut flags = Vec::new();
    for Given { setting, value } in fields {
        match setting.here {
            Here::Used("iptables_sync_period") if section_mode(setting) != section_of(mode) => {
                notices.push(Notice::OtherMode { field: setting.field });
            }
            Here::Used("masquerade_all" | "iptables_masquerade_bit")
                if !of_masquerading_mode(setting, mode) =>
            {
                if *value != setting.default() {
                    notices.push(Notice::OtherMode { field: setting.field });
                }
            }
            // A file that is shared with kube-proxy names its API server.
            Here::Used("kubeconfig") if given("manifests") => {
                let (name, reason) = (setting.name(), "Services come from --manifests");
                notices.push(Notice::Ignored { name, reason });
            }
            Here::Used(name) if !given(name) => {
                let argument = run.get_arguments().find(|argument| argument.get_id() == name);
                let long = argument.and_then(Arg::get_long).expect("each setting names a flag");
                flags.push(format!("--{long}={}", setting.kind.flag_text(value)).into());
            }
            Here::Used(_) | Here::Refused(_) => {}
            Here::Ignored(reason) => {
                notices.push(Notice::Ignored { name: setting.name(), reason });
            }
        }
    }
    flags
}

fn section_mode(setting: &Setting) -> &'static str {
    setting.field.split_once('.').map_or("", |(section, _)| section)
}

/// The ipvs mode masquerades by iptables.
fn of_masquerading_mode(setting: &Setting, mode: &str) -> bool {
    (section_mode(setting) == "nftables") == (mode == "nftables")
}

fn section_of(mode: &str) -> &str {
    if mode.is_empty() { "iptables" } else { mode }
}

/// Every flag of ours with its value.
fn flagz(run: &ArgMatches) -> BTreeMap<String, String> {
    let command = command();
    let known = command.find_subcommand("run").expect("there is a subcommand run");
    known
        .get_arguments()
        .filter_map(|argument| {
            let long = argument.get_long()?;
            let raw = run.try_get_raw(argument.get_id().as_str()).ok()??;
            let texts: Vec<_> = raw.map(|text| text.to_string_lossy()).collect();
            Some((long.to_owned(), texts.join(",")))
        })
        .collect()
}

#[cfg(test)]
mod tests;
