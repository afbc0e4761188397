//! Tells people when NATS is away: Info goes to the log, Warn and Error to a chat as Slack takes them, Critical to who is on call
//! as PagerDuty takes it. Errors that the worker goes on after go to the chat too.
//!
//! The same thing is told once in a while: an alert of a level, and an error of a name, is not repeated for five minutes. What
//! could not be delivered does not count as told.
//!
//! Configuration: `slack`, the address of an incoming webhook; `pagerduty`, the `routingKey` of a service, and `url` if it is not
//! the usual one; `quiet`, the seconds without repetition (300); `name`, what the fleet is called (`parti`). What is not configured
//! goes to the log.
//!
//! The operator grants it the addresses:
//! `plugins: {grants: {webhook-hooks: {http: ["https://hooks.slack.com", "https://events.pagerduty.com"]}}}`.

use parti_guest::http::Request;
use parti_guest::serde_json::{Value, json};
use parti_guest::{AlertLevel, Error, Failed, Hooks, clock, config, log};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    name: String,
    slack: Option<String>,
    pagerduty: Option<PagerDuty>,
    quiet: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { name: "parti".into(), slack: None, pagerduty: None, quiet: 300 }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PagerDuty {
    routing_key: String,
    #[serde(default = "events")]
    url: String,
}

fn events() -> String {
    "https://events.pagerduty.com/v2/enqueue".into()
}

struct Webhooks {
    config: Config,
    /// When each thing was told last.
    told: BTreeMap<String, Duration>,
}

impl Webhooks {
    /// Does `tell`, unless this thing was told a short while ago.
    fn once(&mut self, thing: String, tell: impl FnOnce(&Config) -> Result<(), Error>) -> Result<(), Error> {
        let (now, quiet) = (clock::monotonic(), Duration::from_secs(self.config.quiet));
        self.told.retain(|_, told| now.saturating_sub(*told) < quiet);
        if !self.told.contains_key(&thing) {
            tell(&self.config)?;
            self.told.insert(thing, now);
        }
        Ok(())
    }
}

impl Config {
    /// A message to the chat.
    fn chat(&self, text: &str) -> Result<(), Error> {
        let Some(url) = &self.slack else {
            log::warn!("{text}");
            return Ok(());
        };
        post(url, &json!({ "text": format!("*{}*: {text}", self.name) }))
    }

    /// A message to who is on call. Messages of one fleet become one incident.
    fn page(&self, text: &str) -> Result<(), Error> {
        let Some(PagerDuty { routing_key, url }) = &self.pagerduty else {
            log::error!("{text}");
            return Ok(());
        };
        let event = json!({
            "routing_key": routing_key,
            "event_action": "trigger",
            "dedup_key": format!("{}-degraded", self.name),
            "payload": { "summary": format!("{}: {text}", self.name), "source": self.name, "severity": "critical" },
        });
        post(url, &event)
    }
}

fn post(url: &str, content: &Value) -> Result<(), Error> {
    Request::post(url).json(content)?.send()?.success()?;
    Ok(())
}

impl Hooks for Webhooks {
    fn open() -> Result<Self, Error> {
        Ok(Self { config: config::parse()?, told: BTreeMap::new() })
    }

    fn on_error(&mut self, error: &Failed) -> Result<(), Error> {
        let Failed { code, name, message, partition } = error;
        let place = partition.as_ref().map_or_else(String::new, |partition| format!(" partition {partition}:"));
        self.once(format!("error {name}"), |config| config.chat(&format!("{name} ({code}):{place} {message}")))
    }

    fn on_degraded_alert(&mut self, level: AlertLevel, lasted: Duration) -> Result<(), Error> {
        let text = format!("{level}: NATS has been away for {} s", lasted.as_secs());
        self.once(format!("alert {level}"), |config| match level {
            AlertLevel::Info => {
                log::info!("{text}");
                Ok(())
            }
            AlertLevel::Warn | AlertLevel::Error => config.chat(&text),
            AlertLevel::Critical => config.page(&text),
        })
    }
}

parti_guest::export!(Webhooks as hooks);

#[cfg(test)]
mod tests {
    use super::*;
    use parti_guest::http::{HttpError, Response};
    use parti_guest::serde_json;
    use parti_guest::testing::{self, HooksBench};

    fn open(server: testing::Server) -> HooksBench<Webhooks> {
        let config = json!({
            "slack": "https://hooks.slack.com/services/T/B/X",
            "pagerduty": { "routingKey": "R" },
            "name": "orders",
        });
        testing::hooks().config(config).server(server).open().unwrap()
    }

    fn accept(_: &Request) -> Result<Response, HttpError> {
        Ok(Response { status: 202, ..Response::default() })
    }

    fn alert(bench: &mut HooksBench<Webhooks>, level: AlertLevel) -> Result<(), Error> {
        bench.call(|hooks| hooks.on_degraded_alert(level, Duration::from_secs(90)))
    }

    #[test]
    fn each_level_reaches_who_should_hear_it() {
        let mut bench = open(accept);
        for level in [AlertLevel::Info, AlertLevel::Warn, AlertLevel::Error, AlertLevel::Critical] {
            alert(&mut bench, level).unwrap();
        }
        assert_eq!(bench.logged(), [(log::Level::Info, "Info: NATS has been away for 90 s".into())]);
        let sent: Vec<(&str, Value)> = bench
            .requested()
            .iter()
            .map(|request| (request.url.as_str(), serde_json::from_slice(&request.body).unwrap()))
            .collect();
        let [warn, error, critical] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!(warn.0, "https://hooks.slack.com/services/T/B/X");
        assert_eq!(warn.1, json!({ "text": "*orders*: Warn: NATS has been away for 90 s" }));
        assert_eq!(error.0, warn.0);
        assert_eq!(critical.0, "https://events.pagerduty.com/v2/enqueue");
        assert_eq!(critical.1["payload"]["summary"], "orders: Critical: NATS has been away for 90 s");
        assert_eq!((&critical.1["routing_key"], &critical.1["event_action"]), (&json!("R"), &json!("trigger")));
    }

    #[test]
    fn the_same_thing_is_told_once_in_five_minutes() {
        let mut bench = open(accept);
        let failed = |name: &str| Failed {
            code: "PARTI-1".into(),
            name: name.into(),
            message: "no".into(),
            partition: Some("p".into()),
        };
        for _ in 0..3 {
            alert(&mut bench, AlertLevel::Warn).unwrap();
            bench.call(|hooks| hooks.on_error(&failed("ErrA"))).unwrap();
        }
        assert_eq!(bench.requested().len(), 2);
        bench.call(|hooks| hooks.on_error(&failed("ErrB"))).unwrap();
        bench.advance(Duration::from_secs(299));
        alert(&mut bench, AlertLevel::Warn).unwrap();
        assert_eq!(bench.requested().len(), 3);
        bench.advance(Duration::from_secs(1));
        alert(&mut bench, AlertLevel::Warn).unwrap();
        assert_eq!(bench.requested().len(), 4);
    }

    #[test]
    fn what_could_not_be_delivered_is_told_again() {
        let mut bench = open(|_| Ok(Response { status: 503, ..Response::default() }));
        assert!(alert(&mut bench, AlertLevel::Critical).is_err());
        assert!(alert(&mut bench, AlertLevel::Critical).is_err());
        assert_eq!(bench.requested().len(), 2);
    }

    #[test]
    fn without_addresses_everything_goes_to_the_log() {
        let mut bench = testing::hooks().open::<Webhooks>().unwrap();
        alert(&mut bench, AlertLevel::Critical).unwrap();
        alert(&mut bench, AlertLevel::Warn).unwrap();
        assert_eq!(bench.logged().len(), 2);
    }
}
