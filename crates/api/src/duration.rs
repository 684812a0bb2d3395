//! Durations as people write them: `500ms`, `2s`, `1m`.

use std::time::Duration;

/// Text that is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a duration is a whole number and a unit (ms, s, m, h, d), like 500ms or 2s")]
pub struct MalformedDuration;

/// Units with their length in milliseconds, shortest first.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a duration: a whole number and a unit.
pub fn parse(text: &str) -> Result<Duration, MalformedDuration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(MalformedDuration)?;
    let number: u64 = number.parse().map_err(|_| MalformedDuration)?;
    number.checked_mul(*unit_ms).map(Duration::from_millis).ok_or(MalformedDuration)
}

/// Writes a duration in the largest unit that fits it exactly; what is below a millisecond is cut off.
pub fn format(duration: Duration) -> String {
    let total_ms = duration.as_millis();
    let fits = |unit_ms: u64| total_ms > 0 && total_ms.is_multiple_of(u128::from(unit_ms));
    let (name, unit_ms) = UNITS.into_iter().rev().find(|(_, unit_ms)| fits(*unit_ms)).unwrap_or(UNITS[0]);
    format!("{}{name}", total_ms / u128::from(unit_ms))
}

/// Milliseconds as seconds, with as many digits behind the point as it takes: `29.4`.
pub fn format_seconds(ms: u64) -> String {
    (ms as f64 / 1000.0).to_string()
}

/// What [`format_seconds`] wrote, in milliseconds.
pub fn parse_seconds(text: &str) -> Option<u64> {
    milliseconds(text.parse().ok()?)
}

/// Seconds in whole milliseconds; none if there is no such duration.
pub fn milliseconds(seconds: f64) -> Option<u64> {
    let rounded = Duration::try_from_secs_f64(seconds).ok()?.checked_add(Duration::from_micros(500))?;
    rounded.as_millis().try_into().ok()
}

/// Milliseconds that travel as a number of seconds.
pub(crate) mod seconds {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::milliseconds;

    #[expect(clippy::ref_option, reason = "serde hands over the field as it is")]
    pub(crate) fn serialize<S: Serializer>(ms: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        ms.map(|ms| ms as f64 / 1000.0).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let seconds = Option::<f64>::deserialize(deserializer)?;
        let bad = || D::Error::custom("no number of seconds");
        seconds.map(|seconds| milliseconds(seconds).ok_or_else(bad)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_round_trip() {
        for (ms, text) in [(0, "0"), (1, "0.001"), (29_400, "29.4"), (30_000, "30"), (crate::entry::MAX_TTL_MS, "3153600000")] {
            assert_eq!((format_seconds(ms).as_str(), parse_seconds(text)), (text, Some(ms)));
        }
        assert!(["", "-1", "NaN", "1e30", "x"].into_iter().all(|text| parse_seconds(text).is_none()));
    }

    #[test]
    fn durations_round_trip() {
        for (text, ms) in
            [("0ms", 0), ("1ms", 1), ("1500ms", 1500), ("2s", 2000), ("1m", 60_000), ("36h", 129_600_000), ("2d", 172_800_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(format(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "5", "s", "-1s", "+1s", "1.5s", "1 s", "1S", "1m30s", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse(text), Err(MalformedDuration), "{text}");
        }
    }
}
