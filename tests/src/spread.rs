//! A figure that was measured several times.

use std::{fmt, time::Duration};

use serde::Serialize;

/// Least, median and most of several times, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Spread {
    /// The shortest.
    pub least: f64,
    /// The one in the middle.
    pub median: f64,
    /// The longest.
    pub most: f64,
}

impl Spread {
    /// That of `times`; of none it is all zeros.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        Self {
            least: ms(times.first()),
            median: ms(times.get(times.len() / 2)),
            most: ms(times.last()),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, least, most) = (self.median, self.least, self.most);
        write!(f, "{median:>8.1} ms (median; {least:.1} to {most:.1})")
    }
}
