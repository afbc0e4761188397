//! `plugins.grants`: what a plugin may reach beyond its host. Its own file because these few keys are the whole of what a
//! plugin can be given, and only the operator's configuration can give it.

use super::problem::Problems;
use super::section::{Section as _, Setting, Shape, section};
use super::tree::{Content, Node};
use super::types::Secret;
use super::value::text;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

section! {
    /// What the plugin of this name may reach. A plugin that needs more than is granted is not loaded.
    pub struct Grant {
        /// Where it may send HTTP requests: `https://HOST`, `http://HOST:PORT`. `*.` before the host stands for every name below
        /// it. Without a port, that of the scheme. A plugin follows redirects itself, and each is a request of its own.
        http: Vec<HttpOrigin> = Vec::new() => "none";
        /// Environment variables that it sees: `NAME: text`, or `NAME: {from: VARIABLE}` for the worker's own variable.
        env: Environment = Environment::default() => "none";
        /// A directory that it may read, and what is below it. The plugin finds it as `/`.
        directory: Option<PathBuf> = None => "none";
    }
}

/// What each plugin may reach, by its name.
pub type Grants = BTreeMap<String, Grant>;

impl Setting for Grants {
    fn shape() -> Shape {
        Shape::Named { placeholder: "PLUGIN", keys: Grant::keys() }
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let Content::Map(plugins) = &node.content else {
            let todo = "write it as `name: {http: [\"https://api.example.com\"]}` lines";
            problems.value(path, node, "it takes a map from the names of plugins to what they may reach", todo);
            return None;
        };
        let granted = plugins.iter().filter(|(_, grant)| !grant.is_null());
        Some(
            granted
                .filter_map(|(name, grant)| {
                    Some((name.clone(), Grant::read(grant, &format!("{path}.{name}"), problems)?))
                })
                .collect(),
        )
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// Where requests may go: a scheme, a host or all names below a domain, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOrigin {
    https: bool,
    host: Host,
    port: u16,
}

/// Names in lower case; IPv6 addresses without brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
    Below(String),
}

impl HttpOrigin {
    /// Reads an origin such as `https://*.example.com:8443`.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("it begins with https:// or http://")?;
        let https = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err("its scheme is https or http"),
        };
        if rest.contains(['/', '?', '#', '@']) {
            return Err("it ends with the host or the port: paths, queries and logins cannot be granted");
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port = match port.map(str::parse) {
            None => Self::usual_port(https),
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return Err("its port is a number from 1 to 65535"),
        };
        Ok(Self { https, host: Host::parse(host)?, port })
    }

    /// The port of a scheme.
    #[must_use]
    pub const fn usual_port(https: bool) -> u16 {
        if https { 443 } else { 80 }
    }

    /// Whether a request may go there. `host` may be in brackets.
    #[must_use]
    pub fn allows(&self, https: bool, host: &str, port: u16) -> bool {
        if (https, port) != (self.https, self.port) {
            return false;
        }
        let host = normal(host);
        match &self.host {
            Host::Address(granted) => host.parse() == Ok(*granted),
            Host::Name(granted) => host == *granted,
            Host::Below(domain) => host
                .strip_suffix(domain.as_str())
                .and_then(|name| name.strip_suffix('.'))
                .is_some_and(|name| !name.is_empty()),
        }
    }

    /// Whether it names an address, or this machine by the name that it always has. A name that resolves to this machine
    /// does not: whoever runs its name server says where it leads.
    #[must_use]
    pub fn names_address(&self) -> bool {
        match &self.host {
            Host::Address(_) => true,
            Host::Name(name) => name == "localhost",
            Host::Below(_) => false,
        }
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let text = normal(text);
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let name = text.strip_prefix("*.").unwrap_or(&text);
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if !name.split('.').all(label) {
            return Err(
                "its host is a name, an IP address (IPv6 in brackets), or `*.` and a domain; `*` stands nowhere else",
            );
        }
        Ok(if name.len() < text.len() { Self::Below(name.to_owned()) } else { Self::Name(name.to_owned()) })
    }
}

/// The host as it is compared: without brackets, in lower case, without the dot of the root.
fn normal(host: &str) -> String {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase()
}

impl fmt::Display for HttpOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.https { "https://" } else { "http://" })?;
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
            Host::Address(address) => address.fmt(f)?,
            Host::Name(name) => f.write_str(name)?,
            Host::Below(domain) => write!(f, "*.{domain}")?,
        }
        if self.port == Self::usual_port(self.https) { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl Setting for Vec<HttpOrigin> {
    fn shape() -> Shape {
        Shape::Value { kind: "list of origins".to_owned(), verbatim: false }
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let Content::List(items) = &node.content else {
            problems.value(path, node, "it takes a list of origins", "write it as [\"https://api.example.com\"]");
            return None;
        };
        let origins: Vec<Option<HttpOrigin>> = items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                let path = format!("{path}[{index}]");
                HttpOrigin::parse(text(item, &path, problems)?)
                    .map_err(|why| {
                        problems.value(&path, item, why, "write an origin such as \"https://api.example.com\"")
                    })
                    .ok()
            })
            .collect();
        origins.into_iter().collect()
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// The environment variables of a plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(pub BTreeMap<String, Variable>);

/// Where the value of a variable comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// From here.
    Text(Secret),
    /// From this variable of the worker itself.
    From(String),
}

impl Environment {
    /// Every variable with its value.
    ///
    /// # Errors
    /// The first name whose value is to come from a variable that the worker does not have, and that variable.
    pub fn resolve(&self) -> Result<Vec<(String, String)>, (&str, &str)> {
        let mut resolved = Vec::with_capacity(self.0.len());
        for (name, variable) in &self.0 {
            let value = match variable {
                Variable::Text(text) => text.reveal().to_owned(),
                Variable::From(source) => std::env::var(source).map_err(|_| (name.as_str(), source.as_str()))?,
            };
            resolved.push((name.clone(), value));
        }
        Ok(resolved)
    }
}

section! {
    /// The other form of a variable.
    struct Inherited {
        /// A variable of the worker.
        from: String = String::new(), required;
    }
}

impl Setting for Variable {
    fn shape() -> Shape {
        Shape::Value { kind: "text, `{from: VARIABLE}`".to_owned(), verbatim: false }
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        if matches!(node.content, Content::Map(_)) {
            return Inherited::read(node, path, problems).map(|inherited| Self::From(inherited.from));
        }
        Secret::read(node, path, problems).map(Self::Text)
    }

    fn show(&self) -> Option<String> {
        None
    }
}

impl Setting for Environment {
    fn shape() -> Shape {
        Shape::FreeMap { kind: "map".to_owned() }
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let Content::Map(variables) = &node.content else {
            problems.hidden_value(path, node, "it takes a map from names to values", "write it as `NAME: value` lines");
            return None;
        };
        let mut read = BTreeMap::new();
        for (name, value) in variables.iter().filter(|(_, value)| !value.is_null()) {
            let path = format!("{path}.{name}");
            if name.is_empty() || name.contains(['=', '\0']) {
                problems.hidden_value(
                    &path,
                    value,
                    "a variable's name has no `=` and is not empty",
                    "choose another name",
                );
                continue;
            }
            if let Some(variable) = Variable::read(value, &path, problems) {
                read.insert(name.clone(), variable);
            }
        }
        Some(Self(read))
    }

    fn show(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> HttpOrigin {
        HttpOrigin::parse(text).unwrap()
    }

    #[test]
    fn an_origin_allows_its_scheme_host_and_port_and_nothing_else() {
        let granted = origin("https://API.example.com");
        assert!(granted.allows(true, "api.EXAMPLE.com", 443));
        assert!(granted.allows(true, "api.example.com.", 443));
        for (https, host, port) in [
            (false, "api.example.com", 443),
            (true, "api.example.com", 8443),
            (true, "example.com", 443),
            (true, "api.example.com.evil.org", 443),
            (true, "xapi.example.com", 443),
            (true, "", 443),
        ] {
            assert!(!granted.allows(https, host, port), "{host}:{port}");
        }
    }

    #[test]
    fn a_star_stands_for_names_below_the_domain_and_not_for_the_domain() {
        let granted = origin("http://*.example.com:8080");
        assert!(granted.allows(false, "a.example.com", 8080));
        assert!(granted.allows(false, "a.b.example.com", 8080));
        for host in ["example.com", ".example.com", "aexample.com", "*.example.org"] {
            assert!(!granted.allows(false, host, 8080), "{host}");
        }
    }

    #[test]
    fn addresses_are_compared_as_addresses() {
        assert!(origin("http://[::1]:81").allows(false, "[0:0:0:0:0:0:0:1]", 81));
        assert!(origin("http://127.0.0.1").allows(false, "127.0.0.1", 80));
        assert!(!origin("http://127.0.0.1").allows(false, "127.1", 80));
        assert_eq!(origin("http://[::1]:81").to_string(), "http://[::1]:81");
        assert_eq!(origin("https://*.Example.com:443").to_string(), "https://*.example.com");
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "api.example.com",
            "ftp://a.example.com",
            "https://",
            "https://*",
            "https://a.*.com",
            "https://*.*.com",
            "https://a..b",
            "https://a/b",
            "https://user@a",
            "https://a:0",
            "https://a:99999",
            "https://a:",
            "https://[::1",
            "https://a b",
        ] {
            assert!(HttpOrigin::parse(text).is_err(), "{text}");
        }
    }
}
