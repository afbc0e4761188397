//! Tells people when NATS is away: Info goes to the log, Warn and Error to a chat as Slack takes them, Critical to who is on call
//! as PagerDuty takes it. Errors that the worker goes on after go to the chat too. When NATS is back, who is on call hears of that.
//!
//! The same thing is told once in a while: an alert of a level, and an error of a name, is not repeated for five minutes. What
//! could not be delivered does not count as told.
//!
//! Whoever knows the address of a chat's webhook, or a routing key, can write there: they are secrets, and are read from the
//! environment variables `SLACK_WEBHOOK_URL` and `PAGERDUTY_ROUTING_KEY`, which the operator grants together with the addresses.
//!
//! ```yaml
//! plugins:
//!   grants:
//!     webhook-hooks:
//!       http: ["https://hooks.slack.com", "https://events.pagerduty.com"]
//!       env: { SLACK_WEBHOOK_URL: { from: SLACK_WEBHOOK_URL }, PAGERDUTY_ROUTING_KEY: { from: PAGERDUTY_ROUTING_KEY } }
//! ```
//!
//! Configuration: `slack`, an address in place of that variable; `pagerduty`, with a `routingKey` in place of that variable, and `url`
//! if it is not the usual one; `quiet`, the seconds without repetition (300); `name`, what the fleet is called (`parti`). What has no
//! address goes to the log.

use parti_guest::http::Request;
use parti_guest::serde_json::{Value, json};
use parti_guest::{AlertLevel, Error, Failed, Hooks, WorkerState, clock, config, env, log};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    name: String,
    slack: Option<String>,
    pagerduty: PagerDuty,
    quiet: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { name: "parti".into(), slack: None, pagerduty: PagerDuty::default(), quiet: 300 }
    }
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct PagerDuty {
    routing_key: Option<String>,
    url: String,
}

impl Default for PagerDuty {
    fn default() -> Self {
        Self { routing_key: None, url: "https://events.pagerduty.com/v2/enqueue".into() }
    }
}

struct Webhooks {
    config: Config,
    /// When each thing was told last.
    told: BTreeMap<String, Duration>,
    /// Who is on call was told of an outage, and not yet of its end.
    paged: bool,
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
        post(url, &json!({ "text": format!("*{}*: {}", escaped(&self.name), escaped(text)) }))
    }

    /// A message to who is on call. What the workers of one fleet tell is one incident: `trigger` opens it, and `resolve` closes it.
    fn page(&self, action: &str, text: &str) -> Result<(), Error> {
        let PagerDuty { routing_key: Some(routing_key), url } = &self.pagerduty else {
            log::error!("{text}");
            return Ok(());
        };
        let event = json!({
            "routing_key": routing_key,
            "event_action": action,
            "dedup_key": format!("{}-degraded", self.name),
            "payload": { "summary": format!("{}: {text}", self.name), "source": self.name, "severity": "critical" },
        });
        post(url, &event)
    }
}

/// A text in which nothing is a link or a mention to the chat.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn post(url: &str, content: &Value) -> Result<(), Error> {
    Request::post(url).json(content)?.send()?.success()?;
    Ok(())
}

impl Hooks for Webhooks {
    fn open() -> Result<Self, Error> {
        let mut config: Config = config::parse()?;
        config.slack = config.slack.or_else(|| env::get("SLACK_WEBHOOK_URL"));
        config.pagerduty.routing_key = config.pagerduty.routing_key.or_else(|| env::get("PAGERDUTY_ROUTING_KEY"));
        Ok(Self { config, told: BTreeMap::new(), paged: false })
    }

    fn on_state_changed(&mut self, from: WorkerState, _: WorkerState) -> Result<(), Error> {
        if from == WorkerState::Degraded && self.paged {
            self.config.page("resolve", "NATS is back")?;
            self.paged = false;
            // The next outage is another incident, however soon it comes.
            self.told.remove(&alert(&AlertLevel::Critical));
        }
        Ok(())
    }

    fn on_error(&mut self, error: &Failed) -> Result<(), Error> {
        let Failed { code, name, message, partition } = error;
        let place = partition.as_ref().map_or_else(String::new, |partition| format!(" partition {partition}:"));
        self.once(format!("error {name}"), |config| config.chat(&format!("{name} ({code}):{place} {message}")))
    }

    fn on_degraded_alert(&mut self, level: AlertLevel, lasted: Duration) -> Result<(), Error> {
        let text = format!("{level}: NATS has been away for {} s", lasted.as_secs());
        self.once(alert(&level), |config| match level {
            AlertLevel::Info => {
                log::info!("{text}");
                Ok(())
            }
            AlertLevel::Critical => config.page("trigger", &text),
            // Warn, Error, and what later hosts tell.
            _ => config.chat(&text),
        })?;
        self.paged |= level == AlertLevel::Critical;
        Ok(())
    }
}

/// What an alert is remembered by.
fn alert(level: &AlertLevel) -> String {
    format!("alert {level}")
}

parti_guest::export!(Webhooks as hooks);

#[cfg(test)]
mod tests {
    use super::*;
    use parti_guest::http::{HttpError, Response};
    use parti_guest::serde_json;
    use parti_guest::testing::{self, HooksBench};

    fn open(server: testing::Server) -> HooksBench<Webhooks> {
        let hooks = testing::hooks().config(json!({ "name": "orders" })).server(server);
        let hooks = hooks.env("SLACK_WEBHOOK_URL", "https://hooks.slack.com/services/T/B/X");
        hooks.env("PAGERDUTY_ROUTING_KEY", "R").open().unwrap()
    }

    fn accept(_: &Request) -> Result<Response, HttpError> {
        Ok(Response { status: 202, ..Response::default() })
    }

    fn alerted(bench: &mut HooksBench<Webhooks>, level: AlertLevel) -> Result<(), Error> {
        bench.call(|hooks| hooks.on_degraded_alert(level, Duration::from_secs(90)))
    }

    #[test]
    fn each_level_reaches_who_should_hear_it() {
        let mut bench = open(accept);
        for level in [AlertLevel::Info, AlertLevel::Warn, AlertLevel::Error, AlertLevel::Critical] {
            alerted(&mut bench, level).unwrap();
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
    fn an_outage_that_is_over_is_no_incident_any_more_and_the_next_one_is_another() {
        let mut bench = open(accept);
        let recover = |bench: &mut HooksBench<Webhooks>| {
            bench.call(|hooks| hooks.on_state_changed(WorkerState::Degraded, WorkerState::Stable)).unwrap();
        };
        recover(&mut bench);
        alerted(&mut bench, AlertLevel::Warn).unwrap();
        recover(&mut bench);
        assert_eq!(bench.requested().len(), 1, "nobody on call has heard of it");
        for _ in 0..2 {
            alerted(&mut bench, AlertLevel::Critical).unwrap();
            recover(&mut bench);
            recover(&mut bench);
        }
        let events: Vec<Value> =
            bench.requested().iter().skip(1).map(|sent| serde_json::from_slice(&sent.body).unwrap()).collect();
        let actions: Vec<_> = events.iter().map(|event| event["event_action"].as_str().unwrap()).collect();
        assert_eq!(actions, ["trigger", "resolve", "trigger", "resolve"]);
        assert!(events.iter().all(|event| event["dedup_key"] == "orders-degraded"), "{events:?}");
    }

    #[test]
    fn what_a_worker_says_is_neither_link_nor_mention_in_the_chat() {
        let mut bench = open(accept);
        let message = "a & b <!channel>".to_owned();
        let error = Failed { code: "PARTI-1".into(), name: "ErrA".into(), message, partition: None };
        bench.call(|hooks| hooks.on_error(&error)).unwrap();
        let sent: Value = serde_json::from_slice(&bench.requested()[0].body).unwrap();
        assert_eq!(sent["text"], "*orders*: ErrA (PARTI-1): a &amp; b &lt;!channel&gt;");
    }

    #[test]
    fn what_is_configured_counts_more_than_the_environment() {
        let config = json!({ "slack": "https://chat.example/x", "pagerduty": { "routingKey": "C", "url": "https://pager.example" } });
        let hooks = testing::hooks().config(config).server(accept).env("SLACK_WEBHOOK_URL", "https://hooks.slack.com");
        let mut bench = hooks.env("PAGERDUTY_ROUTING_KEY", "R").open::<Webhooks>().unwrap();
        alerted(&mut bench, AlertLevel::Warn).unwrap();
        alerted(&mut bench, AlertLevel::Critical).unwrap();
        let urls: Vec<_> = bench.requested().iter().map(|request| request.url.as_str()).collect();
        assert_eq!(urls, ["https://chat.example/x", "https://pager.example"]);
    }

    #[test]
    fn no_error_tells_the_secret_of_an_address() {
        let mut bench =
            testing::hooks().env("SLACK_WEBHOOK_URL", "https://hooks.slack.com/services/T/B/X").open().unwrap();
        let denied = alerted(&mut bench, AlertLevel::Warn).unwrap_err().to_string();
        assert!(denied.contains("https://hooks.slack.com;") && !denied.contains("services"), "{denied}");
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
            alerted(&mut bench, AlertLevel::Warn).unwrap();
            bench.call(|hooks| hooks.on_error(&failed("ErrA"))).unwrap();
        }
        assert_eq!(bench.requested().len(), 2);
        bench.call(|hooks| hooks.on_error(&failed("ErrB"))).unwrap();
        bench.advance(Duration::from_secs(299));
        alerted(&mut bench, AlertLevel::Warn).unwrap();
        assert_eq!(bench.requested().len(), 3);
        bench.advance(Duration::from_secs(1));
        alerted(&mut bench, AlertLevel::Warn).unwrap();
        assert_eq!(bench.requested().len(), 4);
    }

    #[test]
    fn what_could_not_be_delivered_is_told_again() {
        let mut bench = open(|_| Ok(Response { status: 503, ..Response::default() }));
        assert!(alerted(&mut bench, AlertLevel::Critical).is_err());
        assert!(alerted(&mut bench, AlertLevel::Critical).is_err());
        assert_eq!(bench.requested().len(), 2);
    }

    #[test]
    fn without_addresses_everything_goes_to_the_log() {
        let mut bench = testing::hooks().open::<Webhooks>().unwrap();
        alerted(&mut bench, AlertLevel::Critical).unwrap();
        alerted(&mut bench, AlertLevel::Warn).unwrap();
        assert_eq!(bench.logged().len(), 2);
    }
}
