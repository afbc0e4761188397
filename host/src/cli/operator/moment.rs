//! Times on a command line: an RFC 3339 time, or how long ago.

use jiff::{SignedDuration, Timestamp};

/// Reads `2026-03-01T12:00:00Z` (any offset) or `2h`, `90m`, `1h30m` ago.
///
/// Why it is neither.
pub(super) fn parse_moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    const SYNTAX: &str = "a time is written as 2026-03-01T12:00:00Z, or as how long ago it was: 2h, 90m, 30s";
    let moment = match text.parse::<SignedDuration>() {
        Ok(ago) if ago.is_negative() => return Err(format!("{text:?} lies in the future; {SYNTAX}")),
        Ok(ago) => now.checked_sub(ago).map_err(|_| format!("{text:?} is too long ago; {SYNTAX}"))?,
        Err(_) => text.parse::<Timestamp>().map_err(|_| format!("{text:?} is no time; {SYNTAX}"))?,
    };
    if moment > now {
        return Err(format!("{text:?} lies in the future; {SYNTAX}"));
    }
    Ok(moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_given_as_such_or_as_how_long_ago_it_was() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let at = |text| parse_moment(text, now).map(|moment| moment.to_string());
        assert_eq!(at("2h"), Ok("2026-03-01T10:00:00Z".into()));
        assert_eq!(at("1h30m"), Ok("2026-03-01T10:30:00Z".into()));
        assert_eq!(at("2026-03-01T10:00:00+02:00"), Ok("2026-03-01T08:00:00Z".into()));
        for wrong in [
            "",
            "-2h",
            "yesterday",
            "2026-03-01",
            "12:00",
            "999999999999h",
            "2026-13-01T00:00:00Z",
            "2027-01-01T00:00:00Z",
        ] {
            assert!(at(wrong).is_err(), "{wrong}: {:?}", at(wrong));
        }
    }
}
