//! What each metric is called, means and is labelled with: registered once, and told to the reference.

use prometheus::{
    CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::Collector,
};

/// Why a registration cannot fail.
const FIXED: &str = "names and labels are fixed in this room and valid, which its tests check";

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of observations by upper bound, their sum and number.
    Histogram,
}

impl Kind {
    /// The word that Prometheus has for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric with all its series.
#[derive(Clone, Debug)]
pub struct Family {
    /// Name.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Names of the labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// Registers metrics and remembers what they are.
#[derive(Debug, Default)]
pub(super) struct Registrar {
    registry: Registry,
    families: Vec<Family>,
}

impl Registrar {
    /// A counter of whole things.
    pub(super) fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> IntCounterVec {
        let made = IntCounterVec::new(Opts::new(name, help), labels).expect(FIXED);
        self.add(made, name, Kind::Counter, help, labels)
    }

    /// A counter of fractions.
    pub(super) fn counter_f64(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> CounterVec {
        let made = CounterVec::new(Opts::new(name, help), labels).expect(FIXED);
        self.add(made, name, Kind::Counter, help, labels)
    }

    /// A gauge of whole things.
    pub(super) fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> IntGaugeVec {
        let made = IntGaugeVec::new(Opts::new(name, help), labels).expect(FIXED);
        self.add(made, name, Kind::Gauge, help, labels)
    }

    /// A gauge of fractions.
    pub(super) fn gauge_f64(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> GaugeVec {
        let made = GaugeVec::new(Opts::new(name, help), labels).expect(FIXED);
        self.add(made, name, Kind::Gauge, help, labels)
    }

    /// A histogram with these upper bounds.
    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        buckets: &[f64],
    ) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let made = HistogramVec::new(options, labels).expect(FIXED);
        self.add(made, name, Kind::Histogram, help, labels)
    }

    /// The registry, and what is in it in the order of registration.
    pub(super) fn finish(self) -> (Registry, Vec<Family>) {
        (self.registry, self.families)
    }

    fn add<C: Collector + Clone + 'static>(
        &mut self,
        collector: C,
        name: &'static str,
        kind: Kind,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> C {
        self.registry
            .register(Box::new(collector.clone()))
            .expect(FIXED);
        self.families.push(Family {
            name,
            kind,
            labels,
            help,
        });
        collector
    }
}
