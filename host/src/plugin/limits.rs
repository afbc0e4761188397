//! What a plugin may use, each limit declared once: field, configuration key, unit, default.

use super::inspect::PluginKind;
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty as $wire:ty = $default:expr, $key:literal;)+) => {
        /// What a plugin may use. Exceeding a limit is an error that names plugin, limit, value and configuration key.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $doc])+ #[doc = concat!("\n\nConfiguration key `limits.", $key, "`.")] pub $field: $type,)+
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        /// Some limits, as written in a configuration file; what is not named stays as it is.
        ///
        /// Sizes are numbers of bytes or texts such as `"64MiB"`, times are texts such as `"5s"`.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct LimitsOverride {
            $($(#[doc = $doc])+ #[serde(rename = $key)] pub $field: Option<$wire>,)+
        }

        impl LimitsOverride {
            /// `base` with the named limits in place.
            #[must_use]
            pub fn over(&self, base: &Limits) -> Limits {
                Limits { $($field: self.$field.map_or(base.$field, Into::into),)+ }
            }

            /// `ceiling` with the named limits in place, each of which may lower the ceiling but not raise it.
            ///
            /// # Errors
            /// The first limit above its ceiling, as a sentence.
            pub(super) fn within(&self, ceiling: &Limits) -> Result<Limits, String> {
                $(if let Some(wanted) = self.$field {
                    let ceiling = <$wire>::from(ceiling.$field);
                    if wanted > ceiling {
                        return Err(format!("limits.{} is {wanted}, above the {ceiling} that the host allows", $key));
                    }
                })+
                Ok(self.over(ceiling))
            }
        }
    };
}

impl LimitsOverride {
    /// Why a limit that is named means nothing for a plugin of this kind, as a sentence: what is published is published for a batch.
    pub(super) fn meaningless(&self, kind: PluginKind) -> Option<String> {
        let of_batches = [
            ("publishMessages", self.publish_messages.is_some()),
            ("publishBytes", self.publish_bytes.is_some()),
            ("publishMessageBytes", self.publish_message_bytes.is_some()),
        ];
        let named = of_batches.into_iter().find_map(|(key, is_named)| is_named.then_some(key));
        let key = named.filter(|_| kind != PluginKind::Handler)?;
        Some(format!("limits.{key} means nothing for a plugin of the kind {kind}, since only handlers publish"))
    }
}

limits! {
    /// Bytes of linear memory, summed over the memories of one instance.
    memory: u64 as Size = 64 << 20, "memory";
    /// Time of one call, host calls included.
    call_timeout: Duration as Time = Duration::from_secs(5), "callTimeout";
    /// Elements of tables, summed over the tables of one instance. Rust needs hundreds, a JavaScript engine thousands.
    table_elements: u64 as u64 = 100_000, "tableElements";
    /// Core instances, and as many memories and tables, of one instance. Rust needs 1 to 4, Python 38.
    core_instances: u64 as u64 = 256, "coreInstances";
    /// Bytes of a component file.
    component_bytes: u64 as Size = 64 << 20, "componentBytes";
    /// Lines that a plugin's instances together may log per second; as many may come in one burst.
    log_lines_per_second: u64 as u64 = 100, "logLinesPerSecond";
    /// Bytes of one log line; the rest of a longer line is cut.
    log_line_bytes: u64 as Size = 4 << 10, "logLineBytes";
    /// Messages published while one batch is handled.
    publish_messages: u64 as u64 = 1_000, "publishMessages";
    /// Bytes of subjects, headers and payloads published while one batch is handled.
    publish_bytes: u64 as Size = 8 << 20, "publishBytes";
    /// Bytes of one published message, headers included. Never above the `max_payload` of the NATS server (1 MiB by default).
    publish_message_bytes: u64 as Size = 1 << 20, "publishMessageBytes";
    /// Series of metrics that a plugin may have on one worker, in all versions and instances.
    metric_series: u64 as u64 = 500, "metricSeries";
    /// Bytes that a guest may hand to the host in one call or answer: a snapshot, a list of partitions, a line of log.
    host_call_bytes: u64 as Size = 16 << 20, "hostCallBytes";
    /// HTTP requests of a plugin's instances together that are in flight.
    http_requests: u64 as u64 = 64, "httpRequests";
    /// Bytes of the body of one HTTP response.
    http_response_bytes: u64 as Size = 8 << 20, "httpResponseBytes";
}

/// A number of bytes, written as a number or as a text such as `"64MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "SizeText")]
pub struct Size(u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Bytes(u64),
    Text(String),
}

const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl TryFrom<SizeText> for Size {
    type Error = String;

    fn try_from(text: SizeText) -> Result<Self, String> {
        let text = match text {
            SizeText::Bytes(bytes) => return Ok(Self(bytes)),
            SizeText::Text(text) => text,
        };
        SIZE_UNITS
            .iter()
            .find_map(|(unit, factor)| {
                let count: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
                count.checked_mul(*factor).map(Self)
            })
            .ok_or_else(|| format!("`{text}` is no size; write a number of bytes, or for example \"64MiB\""))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        match SIZE_UNITS.iter().find(exact) {
            Some((unit, factor)) => write!(f, "{} {unit}", self.0 / factor),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl From<Size> for u64 {
    fn from(size: Size) -> Self {
        size.0
    }
}

/// A time, written as a text such as `"5s"` or `"1m 30s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Time(Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let time = text.parse::<jiff::SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
        match time {
            Some(time) if !time.is_zero() => Ok(Self(time)),
            _ => Err(format!("`{text}` is no time above zero; write for example \"5s\"")),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl From<Duration> for Time {
    fn from(time: Duration) -> Self {
        Self(time)
    }
}

impl From<Time> for Duration {
    fn from(time: Time) -> Self {
        time.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<LimitsOverride, String> {
        serde_saphyr::from_str(yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_and_times_read_as_people_write_them() {
        let limits =
            parse("{ memory: 32MiB, logLineBytes: 100, callTimeout: 1500ms }").unwrap().over(&Limits::default());
        assert_eq!((limits.memory, limits.log_line_bytes), (32 << 20, 100));
        assert_eq!(limits.call_timeout, Duration::from_millis(1500));
        assert_eq!(limits.publish_messages, Limits::default().publish_messages);
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for yaml in [
            "memory: 32 parsecs",
            "memory: -1",
            "memory: 99999999999GiB",
            "callTimeout: -1s",
            "callTimeout: 0s",
            "memroy: 1",
        ] {
            assert!(parse(yaml).is_err(), "{yaml}");
        }
    }

    #[test]
    fn a_sidecar_lowers_a_limit_and_never_raises_it() {
        let ceiling = Limits::default();
        assert_eq!(parse("memory: 1MiB").unwrap().within(&ceiling).unwrap().memory, 1 << 20);
        let refused = parse("memory: 65MiB").unwrap().within(&ceiling).unwrap_err();
        assert_eq!(refused, "limits.memory is 65 MiB, above the 64 MiB that the host allows");
        assert!(parse("callTimeout: 6s").unwrap().within(&ceiling).is_err());
    }

    #[test]
    fn a_limit_that_holds_for_batches_is_for_handlers_alone() {
        for yaml in ["publishMessages: 1", "publishBytes: 1", "{ memory: 1MiB, publishMessageBytes: 1 }"] {
            let limits = parse(yaml).unwrap();
            assert_eq!(limits.meaningless(PluginKind::Handler), None);
            let refused = limits.meaningless(PluginKind::Hooks).unwrap();
            assert!(refused.contains("limits.publish") && refused.contains("kind hooks"), "{refused}");
            assert!(limits.meaningless(PluginKind::Source).is_some());
        }
        assert_eq!(parse("memory: 1MiB").unwrap().meaningless(PluginKind::Source), None);
    }
}
