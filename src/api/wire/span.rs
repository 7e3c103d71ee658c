use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// A length of time in whole milliseconds, for people and programs alike text such as `10s`, `500ms`, `2m`, `1m30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(Duration);

/// The units, the greatest first, and their milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl From<Duration> for Span {
    /// What is less than a millisecond is left out.
    fn from(duration: Duration) -> Self {
        Self(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl FromStr for Span {
    type Err = String;

    /// Numbers, each with its unit (`h`, `m`, `s`, `ms`), the greater unit first.
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "{text:?} is not a length of time: whole numbers and their units (h, m, s, ms), such as 10s, 500ms or 1m30s"
            )
        };
        let (mut rest, mut units, mut total) = (text, UNITS.iter(), 0_u64);
        if rest.is_empty() {
            return Err(refuse());
        }
        while !rest.is_empty() {
            let (digits, after) = rest.split_at(rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(refuse)?);
            let (word, after) =
                after.split_at(after.find(|letter: char| letter.is_ascii_digit()).unwrap_or(after.len()));
            // What was passed over is not there for the next: a unit comes once, and no greater one after it.
            let (_, milliseconds) = units.find(|(unit, _)| *unit == word).ok_or_else(refuse)?;
            let number: u64 = digits.parse().map_err(|_| refuse())?;
            total = number.checked_mul(*milliseconds).and_then(|part| total.checked_add(part)).ok_or_else(refuse)?;
            rest = after;
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

impl fmt::Display for Span {
    /// One number with the greatest unit that needs no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let whole = UNITS.iter().find(|(_, milliseconds)| total != 0 && total.is_multiple_of(*milliseconds));
        let (unit, milliseconds) = whole.copied().unwrap_or(("s", 1000));
        f.pad(&format!("{}{unit}", total / milliseconds))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_back() {
        for (text, milliseconds, canonical) in [
            ("10s", 10_000, "10s"),
            ("500ms", 500, "500ms"),
            ("1500ms", 1500, "1500ms"),
            ("2m", 120_000, "2m"),
            ("120s", 120_000, "2m"),
            ("90s", 90_000, "90s"),
            ("1m30s", 90_000, "90s"),
            ("1h", 3_600_000, "1h"),
            ("1h2m3s4ms", 3_723_004, "3723004ms"),
            ("0s", 0, "0s"),
            ("0ms", 0, "0s"),
            ("007s", 7000, "7s"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(Duration::from(span), Duration::from_millis(milliseconds), "{text}");
            assert_eq!(span.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(span));
            let json = serde_json::to_string(&span).unwrap();
            assert_eq!(json, format!("{canonical:?}"));
            assert_eq!(serde_json::from_str::<Span>(&json).unwrap(), span);
        }
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in [
            "",
            "s",
            "10",
            "10 s",
            " 10s",
            "-1s",
            "+1s",
            "1.5s",
            "1d",
            "1S",
            "1s1m",
            "1s1s",
            "1ms1s",
            "m",
            "1m30",
            "off",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            let refused = text.parse::<Span>().unwrap_err();
            assert!(refused.contains(&format!("{text:?} is not a length of time")), "{refused}");
        }
    }
}
