use crate::model::{EndpointState, HealthCheck};

/// What the answers of one replica add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    state: EndpointState,
    /// Answers in a row that speak against the state.
    against: u8,
}

impl Pulse {
    /// The pulse of a replica in `state`, which nothing speaks against yet. Draining is not a matter of health: such a replica
    /// has no pulse, and one that is given in it never leaves it.
    pub fn new(state: EndpointState) -> Self {
        Self { state, against: 0 }
    }

    /// The state so far.
    pub fn state(self) -> EndpointState {
        self.state
    }

    /// One more answer: `is_good` ones in a row raise a starting or unhealthy replica, bad ones in a row bring a ready one down.
    #[must_use]
    pub fn after(self, is_good: bool, check: &HealthCheck) -> Self {
        let (speaks_against, needed, next) = match self.state {
            EndpointState::Starting | EndpointState::Unhealthy => (is_good, check.rise, EndpointState::Ready),
            EndpointState::Ready => (!is_good, check.fall, EndpointState::Unhealthy),
            EndpointState::Draining => return self,
        };
        if !speaks_against {
            return Self { against: 0, ..self };
        }
        let against = self.against.saturating_add(1);
        if against >= needed { Self::new(next) } else { Self { against, ..self } }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Probe;
    use EndpointState::{Draining, Ready, Starting, Unhealthy};

    fn check(rise: u8, fall: u8) -> HealthCheck {
        let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        HealthCheck { probe: Probe::Tcp, port: None, interval, timeout, rise, fall }
    }

    #[test]
    fn answers_in_a_row_change_a_state() {
        for (from, rise, fall, answers, states) in [
            (Starting, 1, 3, "+", &[Ready][..]),
            (Starting, 2, 3, "+-++", &[Starting, Starting, Starting, Ready]),
            (Starting, 1, 1, "---", &[Starting, Starting, Starting]),
            (Ready, 1, 3, "--+---", &[Ready, Ready, Ready, Ready, Ready, Unhealthy]),
            (Ready, 1, 1, "-", &[Unhealthy]),
            (Unhealthy, 2, 3, "+-++-", &[Unhealthy, Unhealthy, Unhealthy, Ready, Ready]),
            (Draining, 1, 1, "+-+", &[Draining, Draining, Draining]),
            // A check that asks for none in a row is content with one.
            (Starting, 0, 0, "+-+", &[Ready, Unhealthy, Ready]),
        ] {
            let check = check(rise, fall);
            let mut pulse = Pulse::new(from);
            let seen: Vec<EndpointState> = answers
                .chars()
                .map(|answer| {
                    pulse = pulse.after(answer == '+', &check);
                    pulse.state()
                })
                .collect();
            assert_eq!(seen, states, "{from:?} rise {rise} fall {fall}: {answers}");
        }
    }
}
