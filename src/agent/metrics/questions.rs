//! Questions for names.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::dns::{Outcome, Tally};

/// What became of containers' questions.
#[derive(Debug)]
pub(in crate::agent) struct Questions {
    outcomes: IntCounterVec,
    resolver_failures: IntCounter,
}

impl Questions {
    /// All outcomes, at zero, so that a rate can be taken of each from the beginning.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let outcomes = IntCounterVec::new(
            Opts::new("weft_dns_queries_total", "Questions for names that containers have asked, by answer."),
            &["answer"],
        )?;
        for outcome in Outcome::ALL {
            outcomes.with_label_values(&[outcome.as_str()]);
        }
        let resolver_failures = IntCounter::new(
            "weft_dns_forward_failures_total",
            "Questions that one of the host's resolvers has not answered in time, or has refused to answer.",
        )?;
        registry.register(Box::new(outcomes.clone()))?;
        registry.register(Box::new(resolver_failures.clone()))?;
        Ok(Self { outcomes, resolver_failures })
    }
}

impl Tally for Questions {
    fn count(&self, outcome: Outcome) {
        self.outcomes.with_label_values(&[outcome.as_str()]).inc();
    }

    fn count_resolver_failure(&self) {
        self.resolver_failures.inc();
    }
}
