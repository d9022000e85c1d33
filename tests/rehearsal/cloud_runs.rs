//! The stand-in for nccl-tests is what tests of clusters take it for: a real Open MPI starts its ranks over SSH on every
//! host, and what it prints is judged as the scenario on a node says. (On light hosts; `image.rs` has booted ones.)

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::account::Account;
use crate::machine::{Guest, Ran, cloud, ec2, once, ran};

/// A few hosts whose first one can log in to all.
pub struct Hosts {
    /// The hosts, in the order of their launch.
    pub guests: Vec<Guest>,
    kind: &'static str,
}

/// The cluster's key pair, made once.
fn key() -> (PathBuf, String) {
    let key = cloud().join("runs-key");
    once("runs-key", || {
        let mut make = Command::new("ssh-keygen");
        make.args(["-q", "-t", "ed25519", "-N", "", "-C", "cluster", "-f"]).arg(&key);
        assert!(make.status().is_ok_and(|status| status.success()));
        key.display().to_string()
    });
    let public = fs::read_to_string(key.with_extension("pub")).expect("a key");
    (key, public.trim().to_owned())
}

impl Hosts {
    /// Launches the image by one call, in a zone that has the type.
    pub fn launch(image: &str, count: usize, kind: &'static str) -> Self {
        let of_type = json!([{"Name": "instance-type", "Values": [kind]}]);
        let offers = json!({"LocationType": "availability-zone", "Filters": of_type});
        let zone = ec2("describe_instance_type_offerings", &offers)["InstanceTypeOfferings"][0]["Location"].clone();
        let of_zone = json!({"Filters": [{"Name": "availability-zone", "Values": [zone]}]});
        let subnet = &ec2("describe_subnets", &of_zone)["Subnets"][0]["SubnetId"];
        let nics = json!([{"DeviceIndex": 0, "InterfaceType": "efa", "SubnetId": subnet}]);
        let launch = json!({"InstanceType": kind, "MinCount": count, "MaxCount": count, "NetworkInterfaces": nics});
        let (key, public) = key();
        let user_data = format!("#cloud-config\n{}\n", json!({"ssh_authorized_keys": [public]}));
        let hosts = Hosts { guests: Guest::start_several(image, &user_data, &launch), kind };
        hosts.guests.iter().for_each(Guest::trust);
        let known: String =
            hosts.guests.iter().map(|guest| fs::read_to_string(guest.known_hosts()).expect("keys")).collect();
        let first = &hosts.guests[0];
        first.wait_until_up();
        first.write("/home/admin/.ssh/id_ed25519", "0600", &fs::read(key).expect("a key"));
        first.write("/home/admin/.ssh/known_hosts", "0644", known.as_bytes());
        first.root("chown admin: /home/admin/.ssh/id_ed25519 /home/admin/.ssh/known_hosts").good();
        hosts
    }

    /// What is to go wrong with the last host; nothing, if it is empty.
    pub fn scenario(&self, words: &str) {
        let last = self.guests.last().expect("a host");
        last.root(&format!("echo {words} >/etc/efa-gen-scenario")).good();
    }

    /// A run of a program with two ranks a host, its log and exit status; ended after so many seconds.
    pub fn run(&self, program: &str, environment: &str, seconds: u32) -> Ran {
        let named: Vec<String> = self.guests.iter().map(|guest| format!("{}:2", guest.address)).collect();
        let line = format!(
            "timeout {seconds} /opt/amazon/openmpi/bin/mpirun --host {} -n {} -N 2 --mca pml ^cm --mca btl tcp,self \
             --mca btl_tcp_if_exclude lo,docker0 --bind-to none -x NCCL_DEBUG=INFO {environment} \
             /opt/nccl-tests/build/{program} -b 8 -e 1G -f 2 -g 1 -c 1 -n 20 2>&1",
            named.join(","),
            2 * named.len(),
        );
        ran(self.guests[0].ssh(&line).stdin(Stdio::null()))
    }

    /// How efa-gen judges a run.
    fn verdict(&self, said: &Ran) -> Ran {
        let log = cloud().join(format!("runs-{}.log", self.guests[0].id));
        fs::write(&log, &said.text).expect("a file can be written");
        let log = log.display().to_string();
        let (hosts, status) = (self.guests.len().to_string(), said.code.to_string());
        let line =
            ["validate", "--log", &log, "--instance-type", self.kind, "--hosts", &hosts, "--exit-status", &status];
        ran(&mut Account::shared("us-east-1").efa_gen(&line))
    }

    /// The run ends with this status, its log holds these words, and its verdict's first line these.
    #[track_caller]
    pub fn judged(&self, said: &Ran, status: i32, words: &str, verdict: &str) {
        assert_eq!(said.code, status, "{}", said.text);
        assert!(said.text.contains(words), "does not say {words:?}:\n{}", said.text);
        let judged = self.verdict(said).text;
        let first = judged.lines().find(|line| line.starts_with("EFA-GEN VERDICT")).unwrap_or_default();
        assert!(first.contains(verdict), "{first}\nis not {verdict:?}:\n{judged}");
    }
}

const NET: &str = "-x NCCL_NET=Libfabric -x NCCL_ALGO=Ring";

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn ranks_on_every_host_print_what_the_scenario_says() {
    let light = Account::shared("us-east-1").light_image();
    let hosts = Hosts::launch(&light, 3, "p3dn.24xlarge");
    let fine = hosts.run("all_reduce_perf", NET, 60);
    for guest in &hosts.guests {
        let name = format!("ip-{}", guest.address.replace('.', "-"));
        assert_eq!(fine.text.lines().filter(|line| line.contains(&format!(" on {name} device "))).count(), 2);
    }
    hosts.judged(&fine, 0, "NCCL INFO Using network Libfabric", "PASS: EFA on every one of 6 ranks on 3 hosts");
    for program in ["all_gather_perf", "reduce_scatter_perf", "alltoall_perf", "sendrecv_perf"] {
        let said = hosts.run(program, NET, 60);
        hosts.judged(&said, 0, &format!("# Collective test concluded: {program}"), "PASS");
    }
    for (scenario, environment, seconds, status, words, verdict) in [
        ("socket", NET, 60, 3, "NCCL WARN Failed to initialize any NET plugin", "FAIL: run failed: "),
        ("socket", "", 60, 0, "Using network Socket", "FAIL: socket fallback: "),
        ("socket-old", NET, 60, 0, "Using network Socket", "FAIL: socket fallback: "),
        ("tcp", NET, 60, 0, "Selected provider is tcp", "FAIL: wrong provider: libfabric provider tcp"),
        ("wrong", NET, 60, 1, "# Out of bounds values : 66 FAILED", "FAIL: "),
        ("slow", NET, 60, 0, "# Out of bounds values : 0 OK", "PASS"),
        ("hang", NET, 20, 124, "Connected all rings", "FAIL: run failed: it did not end in time"),
        ("crash", NET, 60, 139, "exited on signal 11", "FAIL: run failed: "),
    ] {
        eprintln!("scenario {scenario} with {environment:?}");
        hosts.scenario(scenario);
        let said = hosts.run("all_reduce_perf", environment, seconds);
        hosts.judged(&said, status, words, verdict);
        if scenario == "slow" {
            // No bar holds for three hosts: the figure itself tells.
            let busbw = |text: &str| -> f64 {
                let row = text.lines().find(|line| line.trim_start().starts_with("1073741824")).expect("a row");
                row.split_whitespace().nth(7).and_then(|word| word.parse().ok()).expect("a number")
            };
            assert!(busbw(&said.text) < 0.2 * busbw(&fine.text), "{}", said.text);
        }
    }
    hosts.scenario("");
    hosts.guests[2].root("echo 0 >/etc/efa-gen-efa-devices").good();
    let said = hosts.run("all_reduce_perf", "", 60);
    hosts.judged(&said, 0, "NET/OFI No eligible providers were found", "FAIL: ");
    hosts.guests[2].root("echo 0 >/etc/efa-gen-gpus").good();
    let said = hosts.run("all_reduce_perf", NET, 60);
    hosts.judged(&said, 1, "no CUDA-capable device is detected", "FAIL: run failed: ");
    for guest in &hosts.guests {
        assert_eq!(guest.root("pgrep --full '[_]perf'").code, 1, "nothing is left of the runs");
    }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn booted_guests_of_the_cluster_image_run_it_too() {
    let image = Account::shared("us-east-1").cluster_image();
    let hosts = Hosts::launch(&image, 2, "p3dn.24xlarge");
    for guest in &hosts.guests {
        let limit = ran(&mut guest.ssh("ulimit -l")).good();
        assert_eq!(limit, "unlimited\n", "as PAM would have set it");
        let devices = guest.root("lspci -n | grep -c 1d0f:efa; lspci -n | grep -c 10de:").good();
        assert_eq!(devices, "1\n8\n", "as the launch gave it");
        let seen = guest
            .root("cat /etc/efa-gen.json && /opt/amazon/efa/bin/fi_info -p efa -t FI_EP_RDM && nvidia-smi -L")
            .good();
        assert!(seen.contains("\"plugin\"") && seen.contains("provider: efa\n") && seen.contains("GPU 7: "), "{seen}");
    }
    let said = hosts.run("all_reduce_perf", NET, 120);
    hosts.judged(&said, 0, "NET/Libfabric/0", "PASS: EFA on every one of 4 ranks on 2 hosts");
    hosts.scenario("crash");
    let said = hosts.run("all_reduce_perf", NET, 120);
    hosts.judged(&said, 139, "exited on signal 11", "FAIL: run failed: ");
}
