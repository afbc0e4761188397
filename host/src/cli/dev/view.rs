//! What people see: one line per second, and the summary.

use super::fleet::Shown;
use super::verify::{Finding, Row, Verdict};
use std::fmt::Write as _;
use std::time::Duration;

/// Rows that the summary shows of partitions that are as they must be.
const EXAMPLES: usize = 5;

/// Rows that it shows of partitions that are not.
const FAULTS: usize = 20;

/// One second of a fleet's life.
#[derive(Debug, Clone)]
pub(super) struct Second {
    /// Since the start.
    pub(super) elapsed: Duration,
    /// Messages published per second.
    pub(super) published: f64,
    /// Messages handled per second, those included that are handled again after a crash.
    pub(super) handled: f64,
    /// Messages that wait.
    pub(super) lag: u64,
    /// The workers.
    pub(super) workers: Vec<Shown>,
    /// Partitions that no running worker owns; their messages are not in `lag`.
    pub(super) unowned: usize,
}

/// One line about one second.
pub(super) fn line(second: &Second) -> String {
    let mut line = format!(
        "{:>4}s  published {:>7}/s  handled {:>7}/s  lag {:>6}",
        second.elapsed.as_secs(),
        grouped(second.published.max(0.0).round() as u64),
        grouped(second.handled.max(0.0).round() as u64),
        grouped(second.lag),
    );
    for worker in &second.workers {
        // Writing to a `String` cannot fail.
        let _ = write!(line, "  {} {:>2}", worker.name, worker.doing);
    }
    if second.unowned > 0 {
        let _ = write!(line, "  unowned {}", second.unowned);
    }
    line
}

/// Something that happened, below the lines' time.
pub(super) fn event(text: &str) -> String {
    format!("       {text}")
}

/// The summary of a run: some partitions, the totals, and in the end what is wrong.
pub(super) fn summary(verdict: &Verdict) -> String {
    let width = verdict.rows.iter().map(|row| row.id.as_str().chars().count()).max().unwrap_or(0).clamp(13, 40);
    let mut text = match verdict.alarms {
        Some(_) => format!(
            "{:<width$}  {:>10}  {:>10}  {:>10}  {:>10}  {:>6}  {:>6}  state\n",
            "partition", "published", "handled", "mean", "ewma", "alarms", "owners"
        ),
        None => format!("{:<width$}  {:>10}  {:>10}  {:>6}  state\n", "partition", "published", "position", "owners"),
    };
    let (equal, faulty): (Vec<&Row>, Vec<&Row>) = verdict.rows.iter().partition(|row| row.finding == Finding::Equal);
    let mut examples = equal.clone();
    // Those that have moved are the interesting ones.
    examples.sort_by_key(|row| std::cmp::Reverse(row.owners));
    examples.truncate(EXAMPLES);
    for row in faulty.iter().take(FAULTS).chain(&examples) {
        let _ = writeln!(text, "{}", table_row(row, verdict.alarms.is_some(), width));
    }
    let hidden = verdict.rows.len() - faulty.len().min(FAULTS) - examples.len();
    if hidden > 0 {
        let _ = writeln!(text, "… and {hidden} more");
    }
    let published: u64 = verdict.rows.iter().map(|row| row.published).sum();
    let handled: u64 = verdict.rows.iter().filter_map(|row| row.chart).map(|chart| chart.count).sum();
    let _ = match verdict.alarms {
        Some(_) => writeln!(text, "\npublished {}, handled {}", grouped(published), grouped(handled)),
        None => writeln!(text, "\npublished {}", grouped(published)),
    };
    let _ = match verdict.alarms {
        Some(alarms) => writeln!(
            text,
            "lost {}, duplicated {}, out of order {}\nalarms {}: missing {}, repeated {}, unexpected {}",
            grouped(verdict.lost()),
            grouped(verdict.duplicated()),
            verdict.disordered(),
            grouped(alarms.expected),
            alarms.missing,
            alarms.repeated,
            alarms.unexpected,
        ),
        None => Ok(()),
    };
    let compared = if verdict.alarms.is_some() { "equal to the last bit" } else { "committed to the end" };
    let _ = write!(text, "partitions {compared}: {}/{}", equal.len(), verdict.rows.len());
    text
}

fn table_row(row: &Row, has_charts: bool, width: usize) -> String {
    let (id, published, owners) = (row.id.as_str(), grouped(row.published), row.owners);
    if !has_charts {
        let state = if row.finding == Finding::Equal { "committed".to_owned() } else { row.finding.to_string() };
        return format!("{id:<width$}  {published:>10}  {:>10}  {owners:>6}  {state}", grouped(row.position.0));
    }
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    let handled = row.chart.map_or_else(|| "-".to_owned(), |chart| grouped(chart.count));
    let (mean, ewma) = (number(row.chart.map(|chart| chart.mean)), number(row.chart.map(|chart| chart.ewma)));
    format!(
        "{id:<width$}  {published:>10}  {handled:>10}  {mean:>10}  {ewma:>10}  {:>6}  {owners:>6}  {}",
        row.alarms, row.finding
    )
}

/// A number with a comma between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::dev::fleet::Doing;
    use crate::cli::dev::verify::{Alarms, Finding, Row, Verdict};
    use control_chart_math::Chart;
    use parti_coordination::{PartitionId, Position};

    #[test]
    fn a_second_is_one_aligned_line() {
        let worker = |name: &str, doing| Shown { name: name.into(), doing };
        let second = |elapsed, published, lag, unowned, workers| Second {
            elapsed: Duration::from_millis(elapsed),
            published,
            handled: published - 3.4,
            lag,
            workers,
            unowned,
        };
        let all = ["worker-0", "worker-1"].map(|name| worker(name, Doing::Owns(10))).to_vec();
        let one = vec![worker("worker-0", Doing::Owns(9)), worker("worker-1", Doing::Killed)];
        assert_eq!(
            [line(&second(12_900, 2001.4, 3, 0, all)), line(&second(103_000, 2.0, 12_345, 11, one))],
            [
                "  12s  published   2,001/s  handled   1,998/s  lag      3  worker-0 10  worker-1 10",
                " 103s  published       2/s  handled       0/s  lag 12,345  worker-0  9  worker-1 killed  unowned 11",
            ]
        );
    }

    #[test]
    fn the_summary_shows_every_fault_and_some_of_the_rest() {
        let row = |name: String, owners, finding| Row {
            id: PartitionId::from_keys(&[name]).unwrap(),
            published: 1_998,
            alarms: 4,
            owners,
            chart: Some(Chart { count: 1_998, mean: 20.0126, ewma: 20.1, ..Chart::default() }),
            position: Position(9),
            finding,
        };
        let mut rows: Vec<_> = (0..29).map(|n| row(format!("quiet-{n:02}"), 1, Finding::Equal)).collect();
        rows.push(row("moved".into(), 2, Finding::Equal));
        let alarms = Alarms { expected: 120, missing: 0, repeated: 0, unexpected: 0 };
        let verdict = Verdict { rows: rows.clone(), alarms: Some(alarms) };
        assert_eq!(
            summary(&verdict),
            "partition       published     handled        mean        ewma  alarms  owners  state\n\
             moved               1,998       1,998      20.013      20.100       4       2  equal\n\
             quiet-00            1,998       1,998      20.013      20.100       4       1  equal\n\
             quiet-01            1,998       1,998      20.013      20.100       4       1  equal\n\
             quiet-02            1,998       1,998      20.013      20.100       4       1  equal\n\
             quiet-03            1,998       1,998      20.013      20.100       4       1  equal\n\
             … and 25 more\n\n\
             published 59,940, handled 59,940\n\
             lost 0, duplicated 0, out of order 0\n\
             alarms 120: missing 0, repeated 0, unexpected 0\n\
             partitions equal to the last bit: 30/30"
        );

        rows[7].finding = Finding::Lost(3);
        let faulty = summary(&Verdict { rows, alarms: Some(alarms) });
        assert!(faulty.lines().nth(1).unwrap().ends_with("3 lost"), "{faulty}");
        assert!(faulty.contains("lost 3, duplicated 0") && faulty.ends_with("29/30"), "{faulty}");
    }

    #[test]
    fn thousands_are_set_apart() {
        let shown = [0, 7, 999, 1_000, 48_211, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "7", "999", "1,000", "48,211", "1,234,567"]);
    }
}
