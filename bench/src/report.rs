//! Measurements as a person reads them: min, median and max of each side, the ratio of the medians, and whether it is met.

use std::{fmt, fs};

use anyhow::{Context, Result};

/// Measurements of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    values: Vec<f64>,
}

impl Sample {
    /// One more measurement.
    pub(crate) fn add(&mut self, value: f64) {
        let at = self.values.partition_point(|other| *other < value);
        self.values.insert(at, value);
    }

    /// The middle one, the lower of the two in the middle of an even number; 0 without any.
    fn median(&self) -> f64 {
        self.values.get(self.values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
    }

    fn bounds(&self) -> (f64, f64) {
        let edge = |value: Option<&f64>| value.copied().unwrap_or_default();
        (edge(self.values.first()), edge(self.values.last()))
    }

    fn show(&self, unit: Unit) -> String {
        let (min, max) = self.bounds();
        let digits = unit.digits();
        format!("min {min:.digits$}  median {:.digits$}  max {max:.digits$}{unit}", self.median())
    }
}

/// Measurements of one thing on both sides, round by round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pairs {
    weft: Sample,
    by_hand: Sample,
    /// Weft's share of what was measured by hand in the same round.
    ratios: Sample,
}

impl Pairs {
    /// One more round.
    pub(crate) fn add(&mut self, [weft, by_hand]: [f64; 2]) {
        self.weft.add(weft);
        self.by_hand.add(by_hand);
        self.ratios.add(weft / by_hand);
    }
}

/// What is measured in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    PerSecond,
    GbitPerSecond,
    Milliseconds,
    Microseconds,
    Mebibytes,
    Ratio,
}

impl Unit {
    fn digits(self) -> usize {
        match self {
            Self::PerSecond => 0,
            Self::GbitPerSecond | Self::Milliseconds => 2,
            Self::Mebibytes | Self::Microseconds => 1,
            Self::Ratio => 3,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PerSecond => " /s",
            Self::GbitPerSecond => " Gbit/s",
            Self::Milliseconds => " ms",
            Self::Microseconds => " us",
            Self::Mebibytes => " MiB",
            Self::Ratio => "",
        })
    }
}

/// What a median is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    /// `met`, or by how much not.
    fn verdict(self, value: f64) -> String {
        match self {
            Self::AtLeast(goal) if value >= goal => format!("met (at least {goal})"),
            Self::AtMost(goal) if value <= goal => format!("met (at most {goal})"),
            Self::AtLeast(goal) => format!("MISSED by {:.1} % (at least {goal})", (1.0 - value / goal) * 100.0),
            Self::AtMost(goal) => format!("MISSED by {:.1} % (at most {goal})", (value / goal - 1.0) * 100.0),
        }
    }
}

/// Prints weft's measurements beside those by hand, more being better.
pub(crate) fn ratio(what: &str, unit: Unit, pairs: &Pairs, goal: f64) {
    let Pairs { weft, by_hand, ratios } = pairs;
    println!("{what}");
    println!("  weft     {}", weft.show(unit));
    println!("  by hand  {}", by_hand.show(unit));
    println!("  ratio    {}: {}\n", ratios.show(Unit::Ratio), Goal::AtLeast(goal).verdict(ratios.median()));
}

/// Prints weft's measurements beside another program's, whichever is better being said by the goal for their ratio.
pub(crate) fn beside(other: &str, what: &str, unit: Unit, pairs: &Pairs, goal: Goal) {
    let Pairs { weft, by_hand, ratios } = pairs;
    println!("{what}");
    println!("  weft     {}", weft.show(unit));
    println!("  {other:<8} {}", by_hand.show(unit));
    println!("  ratio    {}: {}\n", ratios.show(Unit::Ratio), goal.verdict(ratios.median()));
}

/// Prints measurements that stand for themselves.
pub(crate) fn absolute(what: &str, unit: Unit, sample: &Sample, goal: Goal) {
    println!("{what}");
    println!("  weft     {}", sample.show(unit));
    println!("  median   {}\n", goal.verdict(sample.median()));
}

/// Prints what all this was measured on.
pub(crate) fn machine() -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel has no release")?;
    let cpus = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo cannot be read")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let load = fs::read_to_string("/proc/loadavg").context("/proc/loadavg cannot be read")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "machine: {cores} cores{}, Linux {}, load before the run {}",
        model.replacen("\t: ", " of ", 1),
        release.trim(),
        load.split_whitespace().next().unwrap_or_default()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_verdicts() {
        let mut sample = Sample::default();
        for value in [3.0, 1.0, 2.0] {
            sample.add(value);
        }
        assert_eq!(sample.show(Unit::Mebibytes), "min 1.0  median 2.0  max 3.0 MiB");
        assert_eq!(Goal::AtLeast(0.97).verdict(1.0), "met (at least 0.97)");
        assert_eq!(Goal::AtMost(10.0).verdict(11.0), "MISSED by 10.0 % (at most 10)");
    }
}
