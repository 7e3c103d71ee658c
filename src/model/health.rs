use std::{num::NonZeroU16, ops::RangeInclusive, time::Duration};

/// How the node that holds a replica finds out whether it can take connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// The port that is asked, in the container; nothing for the target of the service's first published TCP port.
    pub port: Option<NonZeroU16>,
    /// The time from one probe's start to the next one's.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So many good answers in a row make a replica ready.
    pub rise: u8,
    /// So many bad ones in a row make it unhealthy.
    pub fall: u8,
}

impl HealthCheck {
    /// The usual interval.
    pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(2);
    /// The usual time for an answer.
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
    /// The usual number of good answers.
    pub const RISE_DEFAULT: u8 = 1;
    /// The usual number of bad answers.
    pub const FALL_DEFAULT: u8 = 3;
    /// The shortest interval: a mistyped one shall not be an attack.
    pub const INTERVAL_MIN: Duration = Duration::from_millis(100);
    /// The longest interval: whoever wants a longer one wants none.
    pub const INTERVAL_MAX: Duration = Duration::from_hours(1);
    /// The longest time for an answer.
    pub const TIMEOUT_MAX: Duration = Duration::from_mins(1);
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// That a TCP connection is accepted.
    Tcp,
    /// That `GET PATH` by HTTP/1.1 is answered with an expected status.
    Http {
        /// The path with its query, from the first slash on.
        path: String,
        /// The expected status codes.
        status: RangeInclusive<u16>,
    },
}

impl Probe {
    /// The status codes that are good unless somebody says otherwise.
    pub const STATUS_DEFAULT: RangeInclusive<u16> = 200..=399;
}
