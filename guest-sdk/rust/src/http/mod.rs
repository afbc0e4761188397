//! HTTP requests, to where the operator lets this plugin send them: `plugins.grants.NAME.http` in the host's file.
//!
//! With the feature `wasi` of this crate. A component that names this module needs `wasi:http`, and a host that has not granted
//! it does not load it.
//!
//! ```
//! use parti_guest::http::{self, Request};
//!
//! fn partitions() -> Result<Vec<String>, http::HttpError> {
//!     let answer = Request::get("https://registry.example.com/machines").header("accept", "application/json").send()?;
//!     Ok(answer.success()?.json()?)
//! }
//! ```
//!
//! A request ends a little before the call that makes it must, so that the plugin can still say what that means. Redirects are
//! answers like others: whether to follow one is the plugin's decision, and the host checks that request too. The host limits
//! requests in flight and the size of a response.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host;

#[cfg(target_family = "wasm")]
pub(crate) mod wasi;

/// A request to send. Begin with [`get`](Self::get), [`post`](Self::post) or [`new`](Self::new).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST` and so on, in upper case.
    pub method: String,
    /// `https://…` or `http://…`. What follows a `#` is not sent.
    pub url: String,
    /// Names and values. The host adds `host`, `content-length` and, if there is none, `user-agent`.
    pub headers: Vec<(String, String)>,
    /// The content; may be empty.
    pub body: Vec<u8>,
    /// How long connecting, waiting for the answer, and each pause in it may take. Without it, as long as the call may.
    pub timeout: Option<Duration>,
}

impl Request {
    /// A request without content.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    /// A `GET`.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A `POST` without content so far.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// With one header more.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this content.
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// With this value as JSON, and the header that says so.
    ///
    /// # Errors
    /// A value that cannot be JSON, such as a map with keys that are no text.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Result<Self, HttpError> {
        let body = serde_json::to_vec(value).map_err(HttpError::Json)?;
        Ok(self.header("content-type", "application/json").body(body))
    }

    /// With this time for each step; see [`timeout`](Self::timeout).
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Where it goes, for messages: scheme, host and port. Everything else in an address may be a secret.
    ///
    /// ```
    /// use parti_guest::http::Request;
    ///
    /// assert_eq!(Request::get("https://me:word@a.example:81/b?token=c").origin(), "https://a.example:81");
    /// ```
    pub fn origin(&self) -> String {
        let Some((https, authority, _)) = parts(&self.url) else { return "an unknown address".to_owned() };
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        format!("{}://{host}", if https { "https" } else { "http" })
    }

    /// Sends it and waits for the whole answer. Whatever its status is, an answer is no error.
    ///
    /// # Errors
    /// No answer, or one that is too large.
    pub fn send(&self) -> Result<Response, HttpError> {
        host::http(self)
    }
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// For example 200.
    pub status: u16,
    /// Names, in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The content.
    pub body: Vec<u8>,
}

impl Response {
    /// The answer, if its status says that the request succeeded: 200 to 299.
    ///
    /// # Errors
    /// Another status, with the beginning of the content.
    pub fn success(self) -> Result<Self, HttpError> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let beginning = String::from_utf8_lossy(&self.body).chars().take(200).collect();
        Err(HttpError::Status(self.status, beginning))
    }

    /// The value of the first header of this name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// The content as JSON of a type.
    ///
    /// # Errors
    /// Content that is no such JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        serde_json::from_slice(&self.body).map_err(HttpError::Json)
    }
}

/// Why a request has no answer that can be used. Of an address, only the [origin](Request::origin) is told.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address, the method or a header cannot be in a request.
    #[error("{0} cannot be in a request")]
    Invalid(String),
    /// The operator has not granted this address.
    #[error("the host denies requests to {0}; `plugins.grants` in its configuration would allow them")]
    Denied(String),
    /// There was no answer in time.
    #[error("there was no answer from {0} in time")]
    Timeout(String),
    /// Anything else between here and the server, an answer above the host's `limits.httpResponseBytes` among it.
    #[error("there is no answer from {0}: {1}")]
    Failed(String, String),
    /// The server answered with this status; the text is the beginning of the content.
    #[error("the server answered {0}: {1}")]
    Status(u16, String),
    /// What should be JSON is not.
    #[error("it is not the expected JSON: {0}")]
    Json(#[source] serde_json::Error),
}

/// The parts of an address: whether it is HTTPS, host and port, path and query.
#[cfg_attr(not(target_family = "wasm"), allow(dead_code))]
pub(crate) fn parts(url: &str) -> Option<(bool, &str, &str)> {
    let url = url.split_once('#').map_or(url, |(url, _)| url);
    let (scheme, rest) = url.split_once("://")?;
    let https = match scheme {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Some((https, authority, if path.is_empty() { "/" } else { path }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_as_servers_expect_them() {
        assert_eq!(parts("https://a.b:81/c?d#e"), Some((true, "a.b:81", "/c?d")));
        assert_eq!(parts("http://a"), Some((false, "a", "/")));
        assert_eq!(parts("http://[::1]:8080?q=/"), Some((false, "[::1]:8080", "?q=/")));
        for url in ["", "a.b/c", "ftp://a", "//a"] {
            assert_eq!(parts(url), None, "{url}");
        }
    }

    #[test]
    fn an_answer_says_whether_it_is_one() {
        let refused = Response { status: 503, body: b"busy".to_vec(), ..Response::default() }.success().unwrap_err();
        assert_eq!(refused.to_string(), "the server answered 503: busy");
        let answer = Response { status: 204, headers: vec![("x-a".into(), b"1".to_vec())], body: b"[2]".to_vec() };
        let answer = answer.success().unwrap();
        assert_eq!(answer.header("X-A"), Some("1"));
        assert_eq!(answer.json::<Vec<u8>>().unwrap(), [2]);
        assert!(answer.json::<String>().is_err());
    }
}
