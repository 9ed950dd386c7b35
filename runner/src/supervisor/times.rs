//! How long the supervisor waits, for what.

use std::time::Duration;

/// Waits. Tests make them shorter, all by the same factor.
#[derive(Clone, Debug)]
pub struct Times {
    /// The longest time until a pool looks at itself without anything having happened.
    pub tick: Duration,
    /// After a failure: the first wait, and the longest.
    pub failure: (Duration, Duration),
    /// Between looks for runners that nobody needs any more.
    pub sweep: Duration,
    /// Between questions for the newest version of actions/runner.
    pub version: Duration,
    /// How long a worker may take to open its session.
    pub connect: Duration,
    /// How long a worker that was told to end may take before it is ended.
    pub kill: Duration,
    /// How long an idle worker that is not needed any more is kept.
    pub idle: Duration,
    /// How long the removal of runners may take when all is to end at once.
    pub last: Duration,
    /// The shortest time from one poll of a scale set's queue to the next.
    pub poll: Duration,
    /// How long running jobs may go on after the supervisor was told to end.
    pub drain: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            tick: seconds(30),
            failure: (seconds(1), seconds(300)),
            sweep: seconds(900),
            version: seconds(6 * 3600),
            connect: seconds(180),
            kill: seconds(90),
            idle: seconds(60),
            last: seconds(10),
            poll: seconds(1),
            drain: seconds(1800),
        }
    }
}

impl Times {
    /// All of them divided by `factor`.
    #[must_use]
    pub fn faster(&self, factor: u32) -> Self {
        let faster = |time: Duration| time / factor.max(1);
        Self {
            tick: faster(self.tick),
            failure: (faster(self.failure.0), faster(self.failure.1)),
            sweep: faster(self.sweep),
            version: faster(self.version),
            connect: faster(self.connect),
            kill: faster(self.kill),
            idle: faster(self.idle),
            last: faster(self.last),
            poll: faster(self.poll),
            drain: faster(self.drain),
        }
    }
}
