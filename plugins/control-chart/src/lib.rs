//! Watches one number per partition and publishes an alarm when a reading leaves its control limits: a handler with
//! state that moves with its partition.
//!
//! Payloads are JSON objects. Configuration, each with its default:
//! - `field` (`value`): the payload's field that holds the reading
//! - `sigma` (3): distance of the limits from the mean, in standard deviations
//! - `warmup` (30): readings before the first alarm
//! - `lambda` (0.2): weight of the newest reading in the moving average
//!
//! Alarms go to `alarms.<partition id>`. The state is the JSON of a [`Chart`], format `control-chart/1`.

use control_chart_math::{Alarm, Chart, Settings};
use parti_guest::serde_json::{Map, Value};
use parti_guest::{Error, Failure, Handler, Message, OpenReason, OrFail, Partition, Snapshot, Verdict, config};
use serde::{Deserialize, Serialize};

const FORMAT: &str = "control-chart/1";

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    field: String,
    lambda: f64,
    sigma: f64,
    warmup: u64,
}

impl Default for Config {
    fn default() -> Self {
        let Settings { lambda, sigma, warmup } = Settings::default();
        Self { field: "value".into(), lambda, sigma, warmup }
    }
}

struct ControlChart {
    partition: String,
    field: String,
    settings: Settings,
    chart: Chart,
}

/// The payload of an alarm.
#[derive(Serialize)]
struct Report<'a> {
    partition: &'a str,
    #[serde(flatten)]
    alarm: Alarm,
}

impl Handler for ControlChart {
    fn open(partition: &Partition, _: OpenReason, from: Option<Snapshot>) -> Result<Self, Error> {
        let Config { field, lambda, sigma, warmup } = config::parse()?;
        let settings = Settings { lambda, sigma, warmup }.checked()?;
        let chart = match from {
            Some(snapshot) => snapshot.read_json(FORMAT)?,
            None => Chart::default(),
        };
        Ok(Self { partition: partition.id.clone(), field, settings, chart })
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        let payload: Map<String, Value> = message.json()?;
        let reading = payload
            .get(&self.field)
            .and_then(Value::as_f64)
            .ok_or_else(|| Failure::reject(format!("the payload has no numeric field `{}`", self.field)))?;
        let mut chart = self.chart;
        if let Some(alarm) = chart.add(&self.settings, message.sequence, reading).or_reject()? {
            let report = Report { partition: &self.partition, alarm };
            message.publish_json(format!("alarms.{}", self.partition), &report)?;
        }
        self.chart = chart;
        Ok(())
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, Error> {
        Ok(Some(Snapshot::json(FORMAT, &self.chart)?))
    }
}

parti_guest::export!(ControlChart);

#[cfg(test)]
mod tests {
    use super::*;
    use parti_guest::serde_json::{self, json};
    use parti_guest::testing::{self, Bench};
    use parti_guest::{Completed, Outcome};

    fn reading(sequence: u64, value: f64) -> Message {
        testing::message(sequence, "tool-7.temperature", json!({ "value": value }).to_string())
    }

    fn steady(readings: std::ops::RangeInclusive<u64>) -> Vec<Message> {
        readings.map(|sequence| reading(sequence, 20.0 + (sequence % 7) as f64 * 0.1)).collect()
    }

    fn open(snapshot: Option<Snapshot>) -> Bench<ControlChart> {
        testing::partition("tool-7").snapshot(snapshot).open().unwrap()
    }

    #[test]
    fn a_reading_outside_the_limits_is_reported_with_what_an_operator_needs() {
        let mut chart = open(None);
        chart.handle(&steady(1..=40));
        chart.handle(&[reading(41, 35.0)]);

        let [alarm] = chart.published() else { panic!("published {:?}", chart.published()) };
        assert_eq!((alarm.cause, alarm.subject.as_str()), (41, "alarms.tool-7"));
        let report: Value = serde_json::from_slice(&alarm.payload).unwrap();
        assert_eq!(
            (&report["partition"], &report["sequence"], &report["value"]),
            (&json!("tool-7"), &json!(41), &json!(35.0))
        );
        for number in ["mean", "sigma", "ewma", "lower", "upper", "count"] {
            assert!(report[number].is_number(), "{number} in {report}");
        }
    }

    #[test]
    fn state_continues_in_a_new_instance_bit_by_bit() {
        let mut whole = open(None);
        whole.handle(&steady(1..=100));

        let mut first = open(None);
        first.handle(&steady(1..=37));
        let mut second = open(first.snapshot().unwrap());
        second.handle(&steady(38..=100));

        assert_eq!(second.snapshot().unwrap(), whole.snapshot().unwrap());
        let snapshot = whole.snapshot().unwrap().unwrap();
        assert_eq!(snapshot.format, "control-chart/1");
        let state: Value = serde_json::from_slice(&snapshot.data).unwrap();
        assert_eq!((&state["count"], &state["last_sequence"]), (&json!(100), &json!(100)));
    }

    #[test]
    fn a_payload_without_a_usable_reading_is_rejected_with_the_reason_and_changes_nothing() {
        let mut chart = open(None);
        chart.handle(&steady(1..=3));
        let before = chart.snapshot().unwrap();
        for (payload, reason) in [
            ("", "not the expected JSON"),
            ("[1]", "expected a map"),
            ("{}", "no numeric field `value`"),
            (r#"{"value": "20"}"#, "no numeric field `value`"),
            (r#"{"value": null}"#, "no numeric field `value`"),
            (r#"{"value": 1e999}"#, "number out of range"),
            (r#"{"value": 1e300}"#, "too large for the chart"),
        ] {
            let Outcome { done, retry: None } = chart.handle(&[testing::message(4, "tool-7.t", payload)]) else {
                panic!("{payload} is retried")
            };
            let [Completed::Reject(given)] = done.as_slice() else { panic!("{payload}: {done:?}") };
            assert!(given.contains(reason), "{payload}: {given}");
        }
        assert_eq!(chart.snapshot().unwrap(), before);
    }

    #[test]
    fn the_configuration_names_the_field_and_moves_the_limits() {
        let config = json!({"field": "celsius", "warmup": 2, "sigma": 1});
        let mut chart = testing::partition("p").config(config).open::<ControlChart>().unwrap();
        for (sequence, value) in (1..).zip([1.0, 3.0, 6.0]) {
            let payload = json!({ "celsius": value }).to_string();
            assert_eq!(chart.handle(&[testing::message(sequence, "p", payload)]), Outcome::acked(1));
        }
        assert_eq!(chart.published().len(), 1);
    }

    #[test]
    fn a_wrong_configuration_or_a_foreign_state_is_refused_at_open() {
        let refusal = |setup: testing::Setup| setup.open::<ControlChart>().err().unwrap().to_string();

        let misspelt = refusal(testing::partition("p").config(json!({"lamda": 0.3})));
        assert!(misspelt.contains("unknown field `lamda`"), "{misspelt}");
        let out_of_range = refusal(testing::partition("p").config(json!({"lambda": 2})));
        assert!(out_of_range.contains("`lambda` must be above 0"), "{out_of_range}");
        let foreign = Snapshot { format: "count/1".into(), data: b"1".to_vec() };
        let foreign = refusal(testing::partition("p").snapshot(Some(foreign)));
        assert!(foreign.contains("`count/1`") && foreign.contains("`control-chart/1`"), "{foreign}");
    }
}
