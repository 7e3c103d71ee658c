//! Numbers on the command line.

use std::{fmt::Display, str::FromStr};

/// A parser of whole numbers within bounds, which it names to whoever gives it something else.
pub(super) fn whole<T>(least: T, most: T) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| (&least..=&most).contains(&number));
        number.ok_or_else(|| format!("{text:?} is not a whole number from {least} to {most}"))
    }
}
