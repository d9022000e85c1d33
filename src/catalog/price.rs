//! Owns what is known offline of prices: instances by the hour and disks by the month, of one region and one day. For
//! estimates.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{Class, Error, Result};
use crate::text::toml_error;

/// Hours of a month, as AWS's bills count them: a year of 365 days has 8760.
const HOURS_A_MONTH: f64 = 730.0;

/// A table of prices in dollars, on demand, without taxes and discounts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// The only region that the table is of; others cost more or, seldom, less.
    pub region: String,
    /// Day of the instances' prices.
    pub date: String,
    /// Where they come from.
    pub source: String,
    /// What storage costs.
    pub disks: Disks,
    hourly: BTreeMap<String, f64>,
}

/// Prices of storage.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disks {
    /// Day of these prices.
    pub date: String,
    /// A GiB of a gp3 volume for a month.
    pub gp3_gib_month: f64,
    /// A GiB of a snapshot for a month; only what was ever written counts.
    pub snapshot_gib_month: f64,
}

impl Prices {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let wrong = |message: String| Error::new(Class::Bug, format!("prices.toml: {message}"));
        let prices: Prices = toml::from_str(text).map_err(|error| wrong(toml_error(&error, text)))?;
        match prices.hourly.iter().find(|(_, price)| !(price.is_finite() && **price > 0.0)) {
            Some((name, price)) => Err(wrong(format!("`{name}` costs {price}"))),
            None => Ok(prices),
        }
    }

    /// An hour of a Linux instance of this type, on demand; `None` if the table lacks it.
    pub fn hourly(&self, instance_type: &str) -> Option<f64> {
        self.hourly.get(instance_type).copied()
    }

    /// A gp3 volume of this size, without additional IOPS and throughput, for this many hours.
    pub fn gp3(&self, gib: f64, hours: f64) -> f64 {
        self.disks.gp3_gib_month * gib * hours / HOURS_A_MONTH
    }

    /// A snapshot of this size for a month.
    pub fn snapshot_month(&self, gib: f64) -> f64 {
        self.disks.snapshot_gib_month * gib
    }
}
