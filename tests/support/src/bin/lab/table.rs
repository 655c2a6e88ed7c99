//! The one table the demonstration ends in.

use std::fmt;
use std::time::Duration;

/// One row: what was sent and who answered how much of it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    /// Answers of each pod, in the order of the columns.
    pub(crate) answers: Vec<u64>,
    pub(crate) failed: u64,
    pub(crate) median: Duration,
}

/// Rows under the name of what they went through.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) through: String,
    pub(crate) rows: Vec<Row>,
}

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) pods: Vec<String>,
    pub(crate) sections: Vec<Section>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
        let through = widest(&mut self.sections.iter().map(|section| section.through.len()));
        let what = widest(
            &mut self.sections.iter().flat_map(|section| &section.rows).map(|row| row.what.len()),
        );
        write!(f, "{:through$}  {:what$}", "", "answered by")?;
        for pod in &self.pods {
            write!(f, "  {pod:>7}")?;
        }
        writeln!(f, "  {:>6}  {:>9}", "failed", "median")?;
        for section in &self.sections {
            writeln!(f)?;
            for (index, row) in section.rows.iter().enumerate() {
                let name = if index == 0 { section.through.as_str() } else { "" };
                write!(f, "{name:through$}  {:what$}", row.what)?;
                for answers in &row.answers {
                    write!(f, "  {answers:>7}")?;
                }
                let median = row.median.as_secs_f64() * 1000.0;
                writeln!(f, "  {:>6}  {median:>6.2} ms", row.failed)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |what: &str, answers: &[u64]| Row {
            what: what.to_owned(),
            answers: answers.to_vec(),
            failed: 0,
            median: Duration::from_micros(420),
        };
        let table = Table {
            pods: ["pod a", "pod b"].map(str::to_owned).to_vec(),
            sections: vec![Section {
                through: "iptables".to_owned(),
                rows: vec![row("1 connection", &[3000, 0]), row("3 connections", &[1000, 2000])],
            }],
        };
        assert_eq!(
            table.to_string(),
            "          answered by      pod a    pod b  failed     median\n\
             \n\
             iptables  1 connection      3000        0       0    0.42 ms\n\
             \u{20}         3 connections     1000     2000       0    0.42 ms\n"
        );
    }
}
