//! Pairs of hosts: that the rounds have every pair once, and which hosts the bandwidths of pairs name.

use std::collections::BTreeSet;

use efa_gen::nccl::pairs::{ALL_PAIRS, Matrix, Outliers, Pair, PairResult, Side, all_rounds, outliers, rounds};
use proptest::prelude::*;

#[test]
fn rounds_have_every_pair_once_and_no_host_twice() {
    for hosts in 0..200 {
        let rounds = rounds(hosts);
        let mut seen: BTreeSet<Pair> = BTreeSet::new();
        let mut pairs_of = vec![0; hosts];
        for round in &rounds {
            let mut busy = BTreeSet::new();
            for (one, other) in round {
                assert!(one < other && *other < hosts, "{hosts}: {round:?}");
                assert!(busy.insert(*one) && busy.insert(*other), "{hosts}: a host is in two pairs of {round:?}");
                assert!(seen.insert((*one, *other)), "{hosts}: {one} and {other} are there twice");
                pairs_of[*one] += 1;
                pairs_of[*other] += 1;
            }
            assert_eq!(round.len(), hosts / 2, "{hosts}: nobody rests but one of an odd number");
        }
        if hosts <= ALL_PAIRS {
            assert_eq!(seen.len(), hosts * hosts.saturating_sub(1) / 2, "{hosts}");
            assert_eq!(rounds.len(), if hosts == 0 { 0 } else { all_rounds(hosts) });
        } else {
            assert_eq!(rounds.len(), 3 + hosts % 2);
            assert!(pairs_of.iter().all(|pairs| (3..=4).contains(pairs)), "{hosts}: {pairs_of:?}");
        }
    }
    assert_eq!((all_rounds(2), all_rounds(3), all_rounds(16), all_rounds(17)), (1, 3, 15, 17));
}

fn pair(hosts: Pair, busbw: Option<f64>) -> PairResult {
    let failure = busbw.is_none().then(|| "run failed: exit status 1".to_owned());
    let side = |host: usize| Side { name: format!("ip-{host}"), nics: Some(4), providers: vec!["efa".into()] };
    PairResult { hosts, busbw, failure, below_bar: false, sides: vec![side(hosts.0), side(hosts.1)] }
}

/// Every pair that the rounds have, with the bandwidth that it has by the hosts in it.
fn tested(hosts: usize, busbw: impl Fn(usize, usize) -> Option<f64>) -> Vec<PairResult> {
    rounds(hosts).concat().into_iter().map(|(one, other)| pair((one, other), busbw(one, other))).collect()
}

/// Good pairs reach 44 to 46 GB/s; those with one of these hosts reach as much.
fn with_bad(hosts: usize, bad: &[usize], reaches: Option<f64>) -> Vec<PairResult> {
    tested(hosts, |one, other| {
        if bad.contains(&one) || bad.contains(&other) {
            return reaches;
        }
        Some(44.0 + (one * 7 + other * 3) as f64 % 20.0 / 10.0)
    })
}

#[test]
fn the_bad_hosts_are_named_and_nobody_else() {
    for hosts in 3..80 {
        assert_eq!(outliers(hosts, &with_bad(hosts, &[], None)), Outliers::Alike, "{hosts}: all are good");
        for bad in [0, 1, hosts / 2, hosts - 1] {
            for reaches in [Some(34.0), Some(11.0), Some(0.0), Some(f64::NAN), None] {
                let found = outliers(hosts, &with_bad(hosts, &[bad], reaches));
                assert_eq!(found, Outliers::Hosts(vec![bad]), "{hosts} hosts, {reaches:?}");
            }
        }
        // A pair of good hosts must be among the pairs, or nobody knows what good is.
        for bad in [[0, 1], [1, hosts - 1], [hosts / 2, hosts / 2 + 1]] {
            if hosts > 4 || (hosts == 4 && bad != [2, 3]) {
                let Outliers::Hosts(mut named) = outliers(hosts, &with_bad(hosts, &bad, Some(20.0))) else {
                    panic!("{hosts}: {bad:?} are not named");
                };
                named.sort_unstable();
                assert_eq!(named, bad, "{hosts}");
            }
        }
    }
}

#[test]
fn where_no_host_is_worse_nobody_is_named() {
    for hosts in [3, 4, 8, 16, 17, 40] {
        let alike = |busbw: &dyn Fn(usize, usize) -> Option<f64>| outliers(hosts, &tested(hosts, busbw));
        assert_eq!(alike(&|_, _| Some(8.2)), Outliers::Alike, "all are slow");
        assert_eq!(alike(&|_, _| None), Outliers::Alike, "all fail");
        assert_eq!(alike(&|_, _| Some(0.0)), Outliers::Alike);
        // 15 % apart is what hosts of one kind may be.
        assert_eq!(alike(&|one, other| Some(40.0 + ((one + other) % 7) as f64)), Outliers::Alike);
    }
    assert_eq!(outliers(3, &[]), Outliers::Alike);
    // Half the hosts reach each other well, and so does the other half.
    let halves = tested(8, |one, other| Some(if one / 4 == other / 4 { 45.0 } else { 12.0 }));
    assert_eq!(outliers(8, &halves), Outliers::Ways);
    // One pair is bad, its hosts are not.
    let one = tested(8, |one, other| Some(if (one, other) == (2, 5) { 9.0 } else { 45.0 }));
    assert_eq!(outliers(8, &one), Outliers::Ways);
    // A host that is bad among hosts whose ways are bad is still named.
    let both = tested(8, |one, other| match (one, other) {
        (7, _) | (_, 7) => None,
        _ => Some(if (one < 3) == (other < 3) { 45.0 } else { 12.0 }),
    });
    assert_eq!(outliers(8, &both), Outliers::Hosts(vec![7]));
}

#[test]
fn the_worst_is_named_first() {
    let pairs = tested(9, |one, other| match (one, other) {
        (4, _) | (_, 4) => None,
        (6, _) | (_, 6) if one != 0 => Some(10.0),
        _ => Some(45.0),
    });
    assert_eq!(outliers(9, &pairs), Outliers::Hosts(vec![4, 6]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_few_bad_hosts_among_noise(
        hosts in 7_usize..60, picked in prop::collection::vec(any::<prop::sample::Index>(), 1..3), noise in prop::collection::vec(0_u32..100, 60),
    ) {
        let bad: BTreeSet<usize> = picked.iter().map(|index| index.index(hosts)).collect();
        let pairs = tested(hosts, |one, other| {
            let part = 1.0 - f64::from(noise[(one * 31 + other) % 60]) / 1000.0;
            let is_bad = bad.contains(&one) || bad.contains(&other);
            Some(part * if is_bad { 30.0 } else { 45.0 })
        });
        let found = outliers(hosts, &pairs);
        let Outliers::Hosts(named) = &found else { panic!("{found:?}") };
        prop_assert_eq!(named.iter().copied().collect::<BTreeSet<_>>(), bad);
        // The order of the pairs makes no difference to who is named.
        let reversed: Vec<PairResult> = pairs.into_iter().rev().collect();
        prop_assert_eq!(outliers(hosts, &reversed), found);
    }
}

fn matrix(hosts: usize, pairs: Vec<PairResult>) -> Matrix {
    let addresses: Vec<String> = (0..hosts).map(|host| format!("10.0.0.{host}")).collect();
    Matrix::new(&addresses, 1 << 30, rounds(hosts).len(), pairs)
}

#[test]
fn what_is_said_of_the_pairs() {
    let slow = matrix(4, with_bad(4, &[2], Some(11.5)));
    assert_eq!(slow.sentence(), "one host stands out: 10.0.0.2 (ip-2): median 11.50 GB/s, the best pair 45.60");
    assert_eq!(slow.scope(), "every pair of 4 hosts (6), in 3 rounds");
    assert_eq!((slow.hosts[2].pairs, slow.hosts[2].lowest, slow.hosts[2].highest), (3, 11.5, 11.5));
    assert_eq!(slow.hosts[0].lowest, 11.5, "a good host's pair with a bad one");
    assert_eq!(slow.cells()[2], ["11.50", "11.50", "-", "11.50"]);

    let failed = matrix(4, with_bad(4, &[0], None));
    let sentence = failed.sentence();
    let told = "one host stands out: 10.0.0.0 (ip-0): 3 of 3 pairs failed (run failed: exit status 1)";
    assert_eq!(sentence, told);
    assert_eq!(failed.cells()[0], ["-", "failed", "failed", "failed"]);

    let all = matrix(3, with_bad(3, &[0, 1, 2], None));
    assert_eq!(all.sentence(), "all hosts are alike: every pair failed (run failed: exit status 1)");
    let alike = matrix(3, with_bad(3, &[], None));
    assert_eq!(alike.sentence(), "all hosts are alike: their pairs reach 44.30 to 45.30 GB/s at 1 GiB");

    let mut few = with_bad(5, &[3, 4], Some(20.0));
    for measured in few.iter_mut().filter(|measured| measured.hosts.1 == 4) {
        measured.sides[1].nics = Some(3);
        measured.sides[1].providers = vec!["efa".into(), "tcp".into()];
    }
    let few = matrix(5, few);
    assert_eq!(
        few.sentence(),
        "these hosts stand out: 10.0.0.3 (ip-3): median 20.00 GB/s, the best pair 45.30; 10.0.0.4 (ip-4): median 20.00 GB/s, the best pair 45.30, 3 NICs, others 4, provider tcp"
    );

    let large = matrix(20, with_bad(20, &[7], Some(20.0)));
    assert_eq!(large.scope(), "30 pairs of 20 hosts, in 3 of the 19 rounds that have every pair");
    assert!(large.cells().is_empty(), "too many to look at");
}
