//! Schedules: when something is done by the wall clock, in UTC, and that a missed one is made up for once.

use std::fmt;
use std::str::FromStr;

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};

/// A cron expression, in UTC: minute, hour, day of month, month, day of week, each a number, a name (`JAN`, `MON`), a range, a
/// list, `*`, or one of these with a step. Of both days, where neither begins with `*`, either one will do, as with every cron.
///
/// ```
/// # use quorate_eventual::Schedule;
/// let at_night: Schedule = "30 2 * * MON-FRI".parse()?;
/// // 1970 began on a Thursday.
/// assert_eq!(at_night.next_after_ms(0), Some((2 * 60 + 30) * 60_000));
/// # Ok::<(), quorate_eventual::ScheduleError>(())
/// ```
#[derive(Clone)]
pub struct Schedule {
    expression: String,
    crontab: Crontab,
}

impl Schedule {
    /// The first of its times after this one, both in milliseconds since 1970. None if there is none within four years.
    pub fn next_after_ms(&self, wall_ms: u64) -> Option<u64> {
        let after = MakeTimestamp::from_millisecond(i64::try_from(wall_ms).ok()?).ok()?;
        let next = self.crontab.find_next(after).ok()?;
        u64::try_from(next.timestamp().as_millisecond()).ok()
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(expression: &str) -> Result<Self, ScheduleError> {
        let fields = expression.split_ascii_whitespace().count();
        if fields != 5 {
            return Err(ScheduleError::Fields(fields));
        }
        if let Some(word) = words(expression).find(|word| word.chars().any(|letter| !letter.is_ascii_digit()) && !is_name(word)) {
            return Err(ScheduleError::Word(word.to_owned()));
        }
        let options = || {
            let mut options = ParseOptions::default();
            options.fallback_timezone_option = FallbackTimezoneOption::UTC;
            options
        };
        let crontab = cronexpr::parse_crontab_with(expression, options()).map_err(|error| {
            // The expression and a mark below it come first; one line is enough.
            let text = error.to_string();
            ScheduleError::Malformed(text.rsplit_once("^ ").map_or(text.as_str(), |(_, reason)| reason).to_owned())
        })?;
        let schedule = Self { expression: expression.to_owned(), crontab };
        // From a year that has a 29 February within the four after it.
        schedule.next_after_ms(0).is_some().then_some(schedule).ok_or(ScheduleError::Never)
    }
}

/// What stands between the signs.
fn words(expression: &str) -> impl Iterator<Item = &str> {
    expression.split(|sign: char| sign.is_ascii_whitespace() || "*,-/".contains(sign)).filter(|word| !word.is_empty())
}

/// Whether this is the name of a month or a day, as cron has them.
fn is_name(word: &str) -> bool {
    const NAMES: &str = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC SUN MON TUE WED THU FRI SAT";
    word.len() == 3 && NAMES.split(' ').any(|name| name.eq_ignore_ascii_case(word))
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expression)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({:?})", self.expression)
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.expression == other.expression
    }
}

impl Eq for Schedule {}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// It has not five fields.
    #[error("a schedule has five fields, minute hour day-of-month month day-of-week, and not {0}: for example, 30 2 * * MON-FRI")]
    Fields(usize),
    /// A word that means nothing here.
    #[error("{0:?} is no number and no name of a month or day: for example, */15 8-18 * * MON-FRI")]
    Word(String),
    /// A field is not as it should be.
    #[error("{0}: for example, 0 */6 1,15 * *")]
    Malformed(String),
    /// There is no such day.
    #[error("there is no such day in any year: the 29th of February is the rarest there is, 0 0 29 2 *")]
    Never,
}

/// Who is further behind than this was ahead by mistake, and begins anew.
const MAX_BEHIND_MS: u64 = 24 * 60 * 60 * 1000;

/// Where a schedule stands.
///
/// *Invariants*: a time of the schedule leads to one run, at the first look at or after it; times that pass between two looks
/// lead to one together. A clock that goes back runs nothing again, unless it goes back by more than a day: then it was wrong
/// before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scheduled {
    /// All times up to this one are done with.
    done_ms: Option<u64>,
    /// The next one, for this schedule.
    next: Option<(Schedule, u64)>,
}

impl Scheduled {
    /// Goes on from a time up to which all was done.
    pub(crate) fn resume(&mut self, done_ms: u64) {
        *self = Self { done_ms: Some(done_ms), next: None };
    }

    /// All times up to this one are done with: what is worth remembering, if there is anything.
    pub(crate) fn done_ms(&self) -> Option<u64> {
        self.done_ms
    }

    /// Looks at the clock. Whether it is time.
    pub(crate) fn is_time(&mut self, schedule: &Schedule, wall_ms: u64) -> bool {
        let is_ahead = self.done_ms.is_some_and(|done_ms| done_ms > wall_ms.saturating_add(MAX_BEHIND_MS));
        if self.done_ms.is_none() || is_ahead {
            self.resume(wall_ms);
        }
        let done_ms = self.done_ms.unwrap_or(wall_ms);
        if self.next.as_ref().is_none_or(|(of, _)| of != schedule) {
            self.next = Some((schedule.clone(), schedule.next_after_ms(done_ms).unwrap_or(u64::MAX)));
        }
        let is_time = self.next.as_ref().is_some_and(|(_, next_ms)| *next_ms <= wall_ms);
        if is_time {
            self.resume(wall_ms.max(done_ms));
        }
        is_time
    }

    /// When it is time next, by the wall clock.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.next.as_ref().map(|(_, next_ms)| *next_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE_MS: u64 = 60_000;
    const DAY_MS: u64 = 1_440 * MINUTE_MS;

    fn schedule(text: &str) -> Schedule {
        text.parse().unwrap()
    }

    fn why(text: &str) -> String {
        text.parse::<Schedule>().unwrap_err().to_string()
    }

    #[test]
    fn times_are_those_of_cron_in_utc() {
        // 2024-01-01 was a Monday.
        let new_year = 19_723 * DAY_MS;
        let next = |text: &str, day: u64| (schedule(text).next_after_ms(new_year + day * DAY_MS).unwrap() - new_year) / MINUTE_MS;
        assert_eq!(next("*/15 * * * *", 0), 15);
        assert_eq!(next("0 0 * * *", 0), 1_440, "after, and not at");
        assert_eq!(next("30 2 * * SUN", 0), 6 * 1_440 + 150);
        assert_eq!(next("0 0 29 2 *", 60), (366 + 365 + 365 + 365 + 59) * 1_440);
        assert_eq!(next("0 0 13 * FRI", 0), 4 * 1_440, "one of the days will do");
        assert_eq!(next("0 12 31 * *", 340), (365 * 1_440) + 720);
    }

    #[test]
    fn what_is_no_schedule_is_told_with_an_example() {
        assert!(why("* * * *").contains("and not 4: for example, 30 2 * * MON-FRI"));
        assert!(why("0 0 * * * Asia/Shanghai").contains("and not 6"));
        assert!(why("@daily").contains("five fields"));
        assert!(why("0 0 L * *").starts_with("\"L\" is no number"), "it is not to be relied on");
        assert!(why("0 0 15W * *").starts_with("\"15W\""));
        assert!(why("0 0 * * FRI#2").starts_with("\"FRI#2\""));
        assert!(why("60 * * * *").contains("0..=59; found 60: for example"), "{}", why("60 * * * *"));
        assert!(why("5-1 * * * *").contains("ascending"));
        assert!(why("0 0 31 2 *").contains("no such day"));
        assert_eq!(schedule("0 3 * jul wed").to_string(), "0 3 * jul wed");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9*/,LWH#A-Za-z -]{0,24}") {
            if let Ok(schedule) = text.parse::<Schedule>() {
                prop_assert!(schedule.next_after_ms(5).is_some_and(|next_ms| next_ms > 5 && next_ms.is_multiple_of(MINUTE_MS)));
            }
        }

        /// A clock that goes on, stands, jumps, and goes back by less than a day: it runs at the first look at or after a time,
        /// once, and whoever starts again goes on from what was remembered.
        #[test]
        fn each_time_leads_to_one_run(moves in prop::collection::vec((-7_200_000..7_200_000_i64, any::<bool>()), 1..60)) {
            let every_minute = schedule("* * * * *");
            let (mut scheduled, mut wall_ms) = (Scheduled::default(), 20_000 * DAY_MS + 1);
            prop_assert!(!scheduled.is_time(&every_minute, wall_ms));
            let mut furthest_ms = wall_ms;
            for (by_ms, restarts) in moves {
                wall_ms = wall_ms.saturating_add_signed(by_ms).max(furthest_ms.saturating_sub(DAY_MS));
                if restarts {
                    let done_ms = scheduled.done_ms().unwrap();
                    scheduled = Scheduled::default();
                    scheduled.resume(done_ms);
                }
                let has_passed = wall_ms / MINUTE_MS > furthest_ms / MINUTE_MS;
                prop_assert_eq!(scheduled.is_time(&every_minute, wall_ms), has_passed);
                prop_assert!(!scheduled.is_time(&every_minute, wall_ms), "it was done");
                furthest_ms = if has_passed { wall_ms } else { furthest_ms };
            }
        }
    }

    #[test]
    fn a_clock_that_was_a_year_ahead_holds_nothing_up() {
        let daily = schedule("0 0 * * *");
        let mut scheduled = Scheduled::default();
        assert!(!scheduled.is_time(&daily, 1_000 * DAY_MS + 1));
        assert!(scheduled.is_time(&daily, 1_365 * DAY_MS + 1), "all that it seems to have missed, once");
        assert!(!scheduled.is_time(&daily, 1_000 * DAY_MS + 2));
        assert!(scheduled.is_time(&daily, 1_001 * DAY_MS + 2));
    }
}
