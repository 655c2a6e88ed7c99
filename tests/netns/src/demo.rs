//! Aim: the demonstration shows what it claims, in every row.
//! Method: the program behind `scripts/demo`, and the table it prints, read back.

use std::process::Command;

use streamvs_support::figure;

use crate::peers::{built, peers};
use crate::scene::needs_node;

const KUBE_PROXY: &str = "kube-proxy's rules";
const STREAMVS: &str = "streamvs";

/// One row of the table.
#[derive(Debug)]
struct Row {
    through: String,
    what: String,
    /// Of each pod.
    answers: [u64; 3],
    failed: u64,
}

impl Row {
    fn total(&self) -> u64 {
        self.answers.iter().sum()
    }

    /// The difference between the busiest and the idlest pod.
    fn spread(&self) -> u64 {
        let [least, _, most] = self.sorted();
        most - least
    }

    fn sorted(&self) -> [u64; 3] {
        let mut answers = self.answers;
        answers.sort_unstable();
        answers
    }
}

/// Runs the demonstration and returns its rows and its standard error.
#[track_caller]
fn demo(arguments: &[&str]) -> (Vec<Row>, String) {
    let program = streamvs_support::agent::program().with_file_name("lab");
    let output =
        Command::new(program).arg("demo").args(arguments).output().expect("the lab is built");
    let table = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{table}\n{errors}");
    (rows(&table), errors)
}

/// Reads the table. Two spaces at least are between its columns, and the first column is empty
/// where it would say the same again.
fn rows(table: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in table.lines() {
        let mut columns: Vec<&str> =
            line.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect();
        let through = match rows.last() {
            _ if columns.len() == 7 => columns.remove(0).to_owned(),
            Some(above) if columns.len() == 6 => above.through.clone(),
            _ => continue,
        };
        let number = |index: usize| -> u64 {
            columns[index].parse().unwrap_or_else(|error| panic!("{line}: {error}"))
        };
        rows.push(Row {
            through,
            what: columns[0].to_owned(),
            answers: [number(1), number(2), number(3)],
            failed: number(4),
        });
    }
    rows
}

/// The row of this kind of traffic, which must have lost nothing.
#[track_caller]
fn row<'a>(rows: &'a [Row], through: &str, what: &str, total: u64) -> &'a Row {
    let row = rows
        .iter()
        .find(|row| row.through == through && row.what == what)
        .unwrap_or_else(|| panic!("no row {through}, {what}: {rows:#?}"));
    assert_eq!((row.total(), row.failed), (total, 0), "{row:?}");
    row
}

#[test]
fn every_row_of_the_demonstration_shows_what_it_is_for() {
    needs_node!();
    let (rows, errors) = demo(&["--calls", "3000", "--connections", "300"]);
    assert_eq!(rows.len(), 8, "{rows:#?}");
    // The article's experiment: one connection, one pod; three connections, whoever chance picks.
    let one = row(&rows, KUBE_PROXY, "gRPC, 1 connection", 3000);
    assert_eq!(one.sorted(), [0, 0, 3000], "{one:?}");
    row(&rows, KUBE_PROXY, "gRPC, 3 connections", 3000);
    for (what, total) in [
        ("gRPC, 1 connection", 3000),
        ("gRPC, 3 connections", 3000),
        ("TCP, client speaks first", 300),
        ("TCP, server speaks first", 300),
    ] {
        let even = row(&rows, STREAMVS, what, total);
        assert!(even.spread() <= 1, "{even:?}");
        if what.starts_with("TCP") {
            // By connection kube-proxy's rules reach every pod too, though by chance.
            let chance = row(&rows, KUBE_PROXY, what, total);
            assert!(chance.answers.iter().all(|answers| *answers > 0), "{chance:?}");
        }
    }
    let done = errors.lines().find_map(|line| line.strip_prefix("done in ")?.strip_suffix(" s"));
    let seconds: f64 =
        done.and_then(|seconds| seconds.parse().ok()).expect("says how long it took");
    // A demonstration that nobody waits for is none.
    assert!(seconds < 30.0, "{seconds} s");
    figure::report(&format!("demonstration, without building: {seconds} s"));
}

#[test]
fn ghz_is_spread_over_grpc_go_endpoints() {
    needs_node!();
    let (_ghz, _endpoint) = (built("ghz"), built("endpoint"));
    let folder = peers();
    let folder = folder.to_str().expect("the path is text");
    let (rows, _) = demo(&["--calls", "900", "--connections", "30", "--peers", folder]);
    for what in ["ghz, 1 connection", "ghz, 3 connections"] {
        assert_eq!(row(&rows, STREAMVS, what, 900).answers, [300; 3]);
    }
}

#[test]
fn a_table_is_read_by_its_columns() {
    let table = "\
            answered by          pod a    pod b    pod c  failed     median\n\
\n\
before      gRPC, 1 connection    3000        0        0       0    0.42 ms\n\
            TCP                     10       11       12       3    0.40 ms\n\
\n\
streamvs    gRPC, 1 connection    1000     1000     1000       0    0.44 ms\n";
    let found: Vec<(String, String, [u64; 3], u64)> = rows(table)
        .into_iter()
        .map(|row| (row.through, row.what, row.answers, row.failed))
        .collect();
    let wanted = [
        ("before", "gRPC, 1 connection", [3000, 0, 0], 0),
        ("before", "TCP", [10, 11, 12], 3),
        ("streamvs", "gRPC, 1 connection", [1000; 3], 0),
    ];
    let wanted = wanted.map(|(through, what, answers, failed)| {
        (through.to_owned(), what.to_owned(), answers, failed)
    });
    assert_eq!(found, wanted);
}
