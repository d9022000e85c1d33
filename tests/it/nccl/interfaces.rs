//! Over which interfaces the hosts of a test meet: named, or found on the hosts.

use std::process::Command;

use crate::support::mpirun::Stage;
use efa_gen::nccl::command::Host;
use efa_gen::nccl::interfaces::{self, between};

fn hosts(names: &[&str]) -> Vec<Host> {
    names.iter().map(|name| Host { address: (*name).to_owned(), slots: 8 }).collect()
}

fn answers(hosts: &[&str]) -> String {
    hosts.iter().map(|held| format!("EFA-GEN ADDRESSES lo=127.0.0.1/8 {held} .\n")).collect()
}

#[test]
fn interfaces_are_names_or_networks() {
    let both = interfaces::named("eth0,ens5").expect("names");
    assert_eq!(both.mca, ("btl_tcp_if_include".to_owned(), "eth0,ens5".to_owned()));
    assert_eq!(both.variable, Some(("NCCL_SOCKET_IFNAME".to_owned(), "=eth0,ens5".to_owned())));
    assert_eq!(interfaces::named("10.0.0.0/16").expect("a network").variable, None);
    assert_eq!(interfaces::named("eth0,10.1.2.3/32").expect("one of each").variable, None);
    for wrong in [
        "",
        "eth0,",
        "10.0.0.1/16",
        "10.0.0.0/0",
        "10.0.0.0/33",
        "10.0.0/16",
        "a b",
        "-x",
        "$(id)",
        "averyveryverylongname",
    ] {
        assert!(interfaces::named(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn those_between_the_hosts_are_found_by_their_addresses() {
    let bridge = "docker0=172.17.0.1/16 virbr0=192.168.122.1/24";
    let found = |first: &str, second: &str| {
        let told = answers(&[&format!("{first} {bridge}"), &format!("{bridge} {second}")]);
        between(&hosts(&["10.0.0.5", "10.0.16.9"]), "", &told)
            .map(|found| (found.mca.1, found.variable.expect("names").1))
    };
    let same = found("ens5=10.0.0.5/19", "ens5=10.0.16.9/19").expect("both are told");
    assert_eq!(same, ("10.0.0.0/19".to_owned(), "=ens5".to_owned()));
    let other = found("ens5=10.0.0.5/20", "enp71s0=10.0.16.9/20").expect("both are told");
    assert_eq!(other, ("10.0.0.0/20,10.0.16.0/20".to_owned(), "=ens5,enp71s0".to_owned()));
    // Inside another network namespace, the name says whose peer it is.
    assert_eq!(found("eth0@if7=10.0.0.5/24", "eth0=10.0.16.9/24").expect("both are told").1, "=eth0");
    for (first, second) in [
        ("ens5=10.0.0.5/19", "ens5=10.0.16.8/19"),
        ("ens5=10.0.0.5/0", "ens5=10.0.16.9/19"),
        ("ens5=10.0.0.5/33", "ens5=10.0.16.9/19"),
        ("ens5=10.0.0.5", "ens5=10.0.16.9/19"),
        ("$(id)=10.0.0.5/19", "ens5=10.0.16.9/19"),
        ("", ""),
    ] {
        assert!(found(first, second).is_err(), "{first} {second}");
    }
}

#[test]
fn names_of_hosts_are_what_the_first_one_takes_them_for() {
    let named = hosts(&["node-1", "10.0.0.2"]);
    let line = interfaces::resolution(&named).expect("plain names").expect("a name is among them");
    assert!(line.contains("node-1") && !line.contains("10.0.0.2"), "{line}");
    assert_eq!(interfaces::resolution(&hosts(&["10.0.0.1"])).expect("plain"), None);
    let told = answers(&["eth0=10.0.0.1/24", "eth0=10.0.0.2/24"]);
    assert!(between(&named, "EFA-GEN IS node-1 10.0.0.1\n", &told).is_ok());
    // A name that means the host itself to itself says nothing.
    for resolved in ["", "EFA-GEN IS node-1 127.0.1.1\n", "EFA-GEN IS node-1 10.0.0.77\n", "EFA-GEN IS node-1 x\n"] {
        let why = between(&named, resolved, &told).expect_err("nobody holds it");
        assert!(why.starts_with("no host says which of its interfaces holds "), "{why}");
    }
    // On this machine, whatever it is.
    let local = interfaces::resolution(&hosts(&["localhost", "no-such-host.invalid"])).expect("plain").expect("names");
    let output = Command::new("sh").args(["-c", &local]).output().expect("a shell");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "EFA-GEN IS localhost 127.0.0.1\n");
}

#[test]
fn too_many_networks_are_left_to_open_mpi() {
    let names: Vec<String> = (0..9).map(|at| format!("10.0.{at}.1")).collect();
    let held: Vec<String> = names.iter().map(|address| format!("ens5={address}/24")).collect();
    let held: Vec<&str> = held.iter().map(String::as_str).collect();
    let named: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(between(&hosts(&named[..8]), "", &answers(&held)).is_ok());
    assert_eq!(between(&hosts(&named), "", &answers(&held)).expect_err("nine"), "the hosts lie in 9 networks");
}

/// Answers for each host as if it held its address on `ens5`.
const ENS5: &str =
    "for h in $asked; do echo \"EFA-GEN ADDRESSES lo=127.0.0.1/8 docker0=172.17.0.1/16 ens5=$h/24 .\"; done";

#[test]
fn a_run_uses_them_unless_the_user_names_others() {
    let call = |flags: &[&str], answer: Option<&str>| {
        let stage = Stage::new(2, "cat \"$here/$kind\"");
        if let Some(answer) = answer {
            stage.write("answer", answer);
        }
        let ran = stage.validate(flags);
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        (stage.calls().remove(1), ran.stderr)
    };
    let (found, said) = call(&[], Some(ENS5));
    assert!(found.contains("|--mca|btl_tcp_if_include|10.0.0.0/24|"), "{found}");
    assert!(found.contains("|-x|NCCL_SOCKET_IFNAME==ens5|") && !found.contains("docker"), "{found}");
    assert!(said.contains("note: interfaces: ens5 (10.0.0.0/24), by which the hosts reach each other"), "{said}");

    for answer in [None, Some("exit 1"), Some("echo EFA-GEN ADDRESSES eth0=10.9.9.9/24 .")] {
        let (unknown, said) = call(&[], answer);
        assert!(unknown.contains("|btl_tcp_if_exclude|lo,docker0|"), "{unknown}");
        assert!(unknown.contains("|-x|NCCL_SOCKET_IFNAME=^lo,docker,virbr,br-,cni|"), "{unknown}");
        assert!(
            said.contains("note: interfaces: bridges are left out by their usual names alone, because it is not known"),
            "{said}"
        );
    }
    for flags in
        [&["--interfaces", "eth1"][..], &["--mca", "btl_tcp_if_include", "eth1"], &["--env", "NCCL_SOCKET_IFNAME=eth1"]]
    {
        let (own, said) = call(flags, Some(ENS5));
        assert!(own.contains("eth1") && !own.contains("ens5") && !said.contains("note: interfaces: "), "{own}{said}");
    }
}
