//! The price table: what it has, and what it says of itself.

use crate::support::catalog;

#[test]
fn the_table_has_the_default_builder_and_most_types_with_efa() {
    let catalog = catalog();
    let prices = &catalog.prices;
    // The default of --builder-type, and AWS's guide's own type.
    assert_eq!(prices.hourly("c5.4xlarge"), Some(0.68));
    assert_eq!(prices.hourly("p3dn.24xlarge"), Some(31.212));
    assert_eq!(prices.hourly("p3dn.25xlarge"), None);
    let without: Vec<&str> = catalog
        .instance_types
        .iter()
        .map(|known| known.name.as_str())
        .filter(|name| prices.hourly(name).is_none())
        .collect();
    // Not in the source.
    let families = [
        "dl2q.",
        "hpc6a.",
        "hpc6id.",
        "hpc7a.",
        "hpc8a.",
        "p5e.",
        "p6e-gb200.",
        "p6e-gb300r.",
        "r9g.",
        "r9gd.",
        "trn2.",
        "trn2u.",
        "x8aedz.",
    ];
    assert!(without.iter().all(|name| families.iter().any(|family| name.starts_with(family))), "{without:?}");
}

#[test]
fn the_table_says_where_and_when() {
    let prices = catalog().prices;
    assert_eq!(prices.region, "us-east-1");
    assert!(prices.date.len() == 10 && prices.disks.date.len() == 10 && !prices.source.is_empty());
    assert!((prices.gp3(100.0, 730.0) - 8.0).abs() < 1e-9, "a month has 730 hours");
    assert!((prices.snapshot_month(100.0) - 5.0).abs() < 1e-9);
}
