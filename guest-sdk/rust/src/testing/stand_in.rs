//! The stand-in's side of the host functions. Not exported: authors see it through [`Bench`](super::Bench).
//!
//! Host imports are plain functions without a receiver, so the stand-in of the call in progress sits in a thread-local.

use std::cell::RefCell;
use std::mem;

use serde_json::Value;

use super::{Noted, Published};
use crate::log::Level;
use crate::metrics::Declaration;
use crate::{Header, Message, Refusal};

/// What one handler was given by its host and has told it.
#[derive(Debug, Default)]
pub(crate) struct Host {
    config: Value,
    /// Sequences of the batch in hand, with their trace contexts.
    batch: Vec<(u64, Option<String>)>,
    pub(crate) published: Vec<Published>,
    pub(crate) logged: Vec<(Level, String)>,
    declared: Vec<Declaration>,
    pub(crate) noted: Vec<Noted>,
    #[cfg(feature = "wasi")]
    pub(crate) outside: Outside,
}

/// What lies outside the host: its environment, other servers, and time.
#[cfg(feature = "wasi")]
#[derive(Debug, Default)]
pub(crate) struct Outside {
    pub(crate) env: Vec<(String, String)>,
    pub(crate) server: Option<super::Server>,
    pub(crate) requested: Vec<crate::http::Request>,
    pub(crate) elapsed: std::time::Duration,
}

thread_local! {
    static CURRENT: RefCell<Option<Host>> = const { RefCell::new(None) };
}

impl Host {
    pub(crate) fn new(config: Value) -> Self {
        Self { config, ..Self::default() }
    }

    /// Makes this the host of everything that the call does on this thread.
    pub(crate) fn call<T>(&mut self, batch: &[Message], call: impl FnOnce() -> T) -> T {
        let trace = |message: &Message| message.header("traceparent").map(Into::into);
        self.batch = batch.iter().map(|message| (message.sequence, trace(message))).collect();
        let outer = CURRENT.replace(Some(mem::take(self)));
        let result = call();
        *self = CURRENT.replace(outer).unwrap_or_default();
        result
    }

    /// Discards what these messages, which are not done, have published.
    pub(crate) fn settle(&mut self, undone: &[Message]) {
        self.published.retain(|sent| !undone.iter().any(|message| message.sequence == sent.cause));
    }
}

pub(crate) fn log(level: Level, message: &str) {
    CURRENT.with_borrow_mut(|host| match host {
        Some(host) => host.logged.push((level, message.into())),
        None => eprintln!("{level:?}: {message}"),
    });
}

pub(crate) fn config_get(key: &str) -> Option<String> {
    CURRENT.with_borrow(|host| {
        let mut value = &host.as_ref()?.config;
        for part in key.split('.') {
            value = value.get(part)?;
        }
        Some(value.as_str().map_or_else(|| value.to_string(), Into::into))
    })
}

pub(crate) fn config_all() -> String {
    CURRENT.with_borrow(|host| host.as_ref().map_or_else(|| "{}".into(), |host| host.config.to_string()))
}

pub(crate) fn publish(cause: u64, subject: &str, headers: &[Header], payload: &[u8]) -> Result<(), Refusal> {
    CURRENT.with_borrow_mut(|host| {
        let Some(host) = host else {
            return Err(Refusal::Invalid("there is no host outside a call".into()));
        };
        if !host.batch.iter().any(|(sequence, _)| *sequence == cause) {
            let why = format!("the batch in hand has no message with the sequence {cause}");
            return Err(Refusal::Invalid(why));
        }
        if let Some(why) = objection(subject, headers) {
            return Err(Refusal::Invalid(why.into()));
        }
        host.published.push(Published {
            cause,
            subject: subject.into(),
            headers: headers.to_vec(),
            payload: payload.to_vec(),
        });
        Ok(())
    })
}

pub(crate) fn metric_declare(declaration: &Declaration) -> Result<u32, String> {
    CURRENT.with_borrow_mut(|host| {
        let declared = &mut host.as_mut().ok_or("there is no host outside a call")?.declared;
        let known = declared.iter().position(|known| known.name == declaration.name);
        let at = known.unwrap_or_else(|| {
            declared.push(declaration.clone());
            declared.len() - 1
        });
        u32::try_from(at).map_err(|_| "there are too many metrics".into())
    })
}

pub(crate) fn metric_note(metric: u32, value: f64, labels: &[String]) -> Result<(), String> {
    CURRENT.with_borrow_mut(|host| {
        let host = host.as_mut().ok_or("there is no host outside a call")?;
        let declared = usize::try_from(metric).ok().and_then(|at| host.declared.get(at));
        let declared = declared.ok_or_else(|| format!("there is no metric {metric}"))?;
        if labels.len() != declared.labels.len() {
            return Err(format!("{} label values for {} labels", labels.len(), declared.labels.len()));
        }
        host.noted.push(Noted { metric: declared.name.clone(), value, labels: labels.to_vec() });
        Ok(())
    })
}

pub(crate) fn worker() -> String {
    "worker-0".into()
}

pub(crate) fn group() -> String {
    "default".into()
}

pub(crate) fn stream() -> Option<String> {
    Some("work".into())
}

pub(crate) fn epoch() -> Option<u64> {
    Some(1)
}

/// The time of a call is that of a host with default settings, and stands still.
pub(crate) fn remaining_ms() -> u64 {
    5_000
}

pub(crate) fn cancelled() -> bool {
    false
}

pub(crate) fn trace_parent(sequence: u64) -> Option<String> {
    CURRENT.with_borrow(|host| {
        let (_, trace) = host.as_ref()?.batch.iter().find(|(of, _)| *of == sequence)?;
        trace.clone()
    })
}

#[cfg(feature = "wasi")]
pub(crate) fn http(request: &crate::http::Request) -> Result<crate::http::Response, crate::http::HttpError> {
    let server = CURRENT.with_borrow_mut(|host| {
        let outside = &mut host.as_mut()?.outside;
        outside.requested.push(request.clone());
        outside.server
    });
    server.map_or_else(|| Err(crate::http::HttpError::Denied(request.origin())), |server| server(request))
}

#[cfg(feature = "wasi")]
pub(crate) fn env(name: &str) -> Option<String> {
    CURRENT.with_borrow(|host| {
        let (_, value) = host.as_ref()?.outside.env.iter().find(|(granted, _)| granted == name)?;
        Some(value.clone())
    })
}

#[cfg(feature = "wasi")]
pub(crate) fn monotonic() -> std::time::Duration {
    CURRENT.with_borrow(|host| host.as_ref().map_or(std::time::Duration::ZERO, |host| host.outside.elapsed))
}

/// What the host would say against a message to publish.
fn objection(subject: &str, headers: &[Header]) -> Option<&'static str> {
    if subject.split('.').any(str::is_empty) {
        return Some("the subject has an empty part");
    }
    if subject.contains(|c: char| c.is_whitespace() || c.is_control() || c == '*' || c == '>') {
        return Some("the subject has a space, a control character or a wildcard");
    }
    if subject.starts_with('$') {
        return Some("the subject belongs to the server");
    }
    let set_by_the_host = |header: &Header| header.name.eq_ignore_ascii_case("Nats-Msg-Id");
    headers.iter().any(set_by_the_host).then_some("the host sets the header `Nats-Msg-Id` itself")
}
