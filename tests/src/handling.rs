//! What the handlers of the tests make of messages, computed apart from the fleet and from the components.

use crate::stream::Stored;
use control_chart_math::{Chart, Settings};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// See [`Handling::payload`].
const SPECIAL_IN: u32 = 300;

/// A handler whose whole effect can be computed from the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// The plugin `relay`: every message comes out again. No state.
    Relay,
    /// The plugin `control-chart`: alarms come out, readings without a value are rejected, and the state depends on the order.
    ControlChart,
    /// The component `ledger` of the tests: every message comes out again, unless its first word makes it trap or be rejected,
    /// and the state depends on the order.
    Ledger,
}

/// What a partition's messages must lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The outputs, in order.
    pub outputs: Vec<Effect>,
    /// The dead letters, in order; each is known by its sequence in the stream.
    pub dead_letters: Vec<Effect>,
    /// The state, where the handler has one.
    pub state: Option<String>,
    /// Sequence of the last message; 0 if there is none.
    pub last: u64,
}

/// Something that a message must lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// By what it is recognized.
    pub what: String,
    /// When the message was published that causes it.
    pub caused: Duration,
}

impl Handling {
    /// Name of the component.
    #[must_use]
    pub fn plugin(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::ControlChart => "control-chart",
            Self::Ledger => "ledger",
        }
    }

    /// The payload of message `n`, different for each. One in so many is not just handled, where the handler knows such ones.
    #[must_use]
    pub fn payload(self, n: u64) -> String {
        let mut random = StdRng::seed_from_u64(n);
        let special = random.random_ratio(1, SPECIAL_IN).then(|| random.random_range(0..4));
        match self {
            Self::Relay => format!("plain {n}"),
            Self::Ledger => {
                let kind = special.map_or("plain", |kind| ["trap", "flaky", "retry", "reject"][kind]);
                format!("{kind} {n}")
            }
            Self::ControlChart => {
                let value = match special {
                    // No reading: it is rejected.
                    Some(0) => json!(null),
                    Some(_) => json!(900),
                    None => json!(20.0 + f64::from(random.random_range(-500..=500)) / 1000.0),
                };
                json!({ "value": value, "n": n }).to_string()
            }
        }
    }

    /// The stream that takes what comes out.
    #[must_use]
    pub fn output(self) -> &'static str {
        match self {
            Self::Relay | Self::Ledger => "out",
            Self::ControlChart => "alarms",
        }
    }

    /// What comes before a partition's id in the subjects of its outputs.
    pub(crate) fn output_prefix(self) -> &'static str {
        match self {
            Self::Relay | Self::Ledger => "out.work.",
            Self::ControlChart => "alarms.",
        }
    }

    /// By what an output is recognized.
    pub(crate) fn recognize(self, output: &Stored) -> String {
        match self {
            Self::Relay | Self::Ledger => String::from_utf8_lossy(&output.payload).into_owned(),
            Self::ControlChart => canonical(&output.payload),
        }
    }

    /// What these messages of a partition must lead to.
    #[must_use]
    pub fn account(self, partition: &str, messages: &[&Stored]) -> Account {
        let mut account = match self {
            Self::Relay => {
                let outputs = messages.iter().map(|message| effect(message, self.recognize(message)));
                Account { outputs: outputs.collect(), ..Account::default() }
            }
            Self::ControlChart => charted(partition, messages),
            Self::Ledger => entered(messages),
        };
        account.last = messages.last().map_or(0, |message| message.sequence);
        account
    }
}

/// A JSON object in one order of keys and one form of numbers, whoever wrote it; what is none is told as it is.
pub(crate) fn canonical(json: &[u8]) -> String {
    // Every language writes a whole number in its own way: `900` or `900.0`. Beyond 2^53 a float would not hold it.
    let number = |value: Value| match value.as_i64() {
        Some(whole) if whole.unsigned_abs() < 1 << 53 => json!(whole as f64),
        _ => value,
    };
    match serde_json::from_slice::<BTreeMap<String, Value>>(json) {
        Ok(object) => {
            json!(object.into_iter().map(|(key, value)| (key, number(value))).collect::<BTreeMap<_, _>>()).to_string()
        }
        Err(error) => format!("{error} in {}", json.escape_ascii()),
    }
}

fn effect(message: &Stored, what: String) -> Effect {
    Effect { what, caused: message.at }
}

fn charted(partition: &str, messages: &[&Stored]) -> Account {
    let (mut chart, mut account) = (Chart::default(), Account::default());
    for message in messages {
        let reading: Value = serde_json::from_slice(&message.payload).expect("JSON");
        let Some(value) = reading["value"].as_f64() else {
            account.dead_letters.push(effect(message, message.sequence.to_string()));
            continue;
        };
        let alarm = chart.add(&Settings::default(), message.sequence, value).expect("a finite reading");
        account.outputs.extend(alarm.map(|alarm| {
            let mut report = json!(alarm);
            report["partition"] = partition.into();
            effect(message, canonical(report.to_string().as_bytes()))
        }));
    }
    Account { state: Some(canonical(json!(chart).to_string().as_bytes())), ..account }
}

/// The same arithmetic as in the component.
fn entered(messages: &[&Stored]) -> Account {
    const PRIME: u64 = 0x0100_0000_01b3;
    let (mut count, mut digest, mut account) = (0_u64, 0_u64, Account::default());
    for message in messages {
        let payload = String::from_utf8_lossy(&message.payload);
        if matches!(payload.split(' ').next(), Some("trap" | "reject")) {
            account.dead_letters.push(effect(message, message.sequence.to_string()));
            continue;
        }
        count += 1;
        digest = (digest ^ message.sequence).wrapping_mul(PRIME);
        account.outputs.push(effect(message, payload.into_owned()));
    }
    let state = canonical(json!({ "count": count, "digest": digest }).to_string().as_bytes());
    Account { state: Some(state), ..account }
}
