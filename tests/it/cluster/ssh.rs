//! How a cluster's nodes are logged in to, and how they let each other in: a whole cluster against a stub of AWS, with a
//! stand-in for ssh that runs what it is told on this machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;

use crate::support::builds::assert_ran;
use crate::support::launched::{Call, LaunchedCluster, Rule};

/// Everything that could make a connection weaker, slower or another one; and what leads to a host.
const HOSTILE: &str = "IgnoreUnknown *
Host *
  SendEnv AWS_* HF_TOKEN *
  SetEnv EVIL=1
  User mallory
  HostKeyAlias evil
  ForwardAgent yes
  ForwardX11 yes
  ForwardX11Trusted yes
  GSSAPIAuthentication yes
  GSSAPIDelegateCredentials yes
  GSSAPIKeyExchange yes
  GSSAPITrustDns yes
  HostbasedAuthentication yes
  EnableSSHKeysign yes
  StdinNull yes
  ForkAfterAuthentication yes
  SessionType none
  RequestTTY force
  EscapeChar none
  PermitLocalCommand yes
  LocalCommand touch pwned
  RemoteCommand touch pwned
  KnownHostsCommand /bin/echo %H
  IdentityFile ~/.ssh/id_work
  IdentityFile ~/.ssh/id_home
  CertificateFile ~/.ssh/id_work-cert.pub
  IdentityAgent /tmp/agent
  IdentitiesOnly no
  AddKeysToAgent yes
  PKCS11Provider /tmp/evil.so
  SecurityKeyProvider /tmp/evil.so
  ControlMaster auto
  ControlPath ~/.ssh/%r@%h
  ControlPersist 10m
  Tunnel yes
  TunnelDevice 1:1
  LocalForward 8080 localhost:80
  RemoteForward 8081 localhost:22
  DynamicForward 1080
  GatewayPorts yes
  ExitOnForwardFailure yes
  PermitRemoteOpen any
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  GlobalKnownHostsFile /tmp/theirs
  RevokedHostKeys /tmp/none
  VerifyHostKeyDNS yes
  UpdateHostKeys yes
  NoHostAuthenticationForLocalhost yes
  CheckHostIP yes
  Ciphers 3des-cbc
  MACs hmac-md5
  KexAlgorithms diffie-hellman-group1-sha1
  HostKeyAlgorithms ssh-rsa
  PubkeyAcceptedAlgorithms ssh-rsa
  CASignatureAlgorithms ssh-rsa
  RequiredRSASize 1024
  PubkeyAuthentication no
  PasswordAuthentication yes
  KbdInteractiveAuthentication yes
  PreferredAuthentications password
  NumberOfPasswordPrompts 3
  BatchMode no
  ConnectionAttempts 99
  ConnectTimeout 9999
  ServerAliveInterval 0
  TCPKeepAlive no
  Compression yes
  LogLevel DEBUG3
  LogVerbose *
  SyslogFacility AUTH
  VisualHostKey yes
  FingerprintHash md5
  ObscureKeystrokeTiming no
";

/// What leads to a host.
const WAY: [&str; 5] = ["addressfamily ", "bindaddress ", "hostname ", "port ", "proxycommand "];

/// What ssh would do beyond that.
fn but_the_way(options: &str) -> BTreeSet<&str> {
    options.lines().filter(|line| !WAY.iter().any(|word| line.starts_with(word))).collect()
}

fn has(environment: &[String], name: &str) -> bool {
    environment.iter().any(|line| line.split_once('=').is_some_and(|(known, _)| known == name))
}

/// The calls that connect to a node; the others ask how a configuration leads there.
fn connections(cluster: &LaunchedCluster) -> Vec<Call> {
    let mut calls = cluster.calls();
    calls.retain(|call| call.words.iter().any(|word| word.starts_with("-oHostKeyAlias=")));
    calls
}

const SECRETS: [&str; 8] = [
    "AWS_SESSION_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "HF_TOKEN",
    "NGC_API_KEY",
    "GITHUB_PAT",
    "DB_PASSWORD",
    "LD_PRELOAD_OF_SOMEBODY",
];

fn with_secrets(command: &mut Command) -> &mut Command {
    for name in SECRETS.iter().filter(|name| !matches!(**name, "AWS_SECRET_ACCESS_KEY" | "AWS_ACCESS_KEY_ID")) {
        command.env(name, "of-the-caller");
    }
    command.env("SSH_AUTH_SOCK", "/tmp/agent-of-the-caller")
}

#[test]
fn no_option_of_the_users_own_configuration_weakens_a_connection() {
    let cluster = LaunchedCluster::of(HOSTILE);
    cluster.calls();
    let config = format!("{HOSTILE}  BindAddress 127.0.0.1\n  AddressFamily inet\n  ProxyJump me@bastion:2222\n");
    for config in [HOSTILE, config.as_str()] {
        cluster.set_config(config);
        for line in [&["run", "web", "--", "true"][..], &["ssh", "web", "--", "true"], &["ssh", "web", "--node", "1"]] {
            let ran = with_secrets(&mut cluster.command(&[&["cluster"], line].concat())).output().expect("it starts");
            assert!(ran.status.success() || line.len() == 4, "{line:?}: {}", String::from_utf8_lossy(&ran.stderr));
            let calls = cluster.calls();
            // Nor has what only asks how the configuration leads there any secret.
            for call in &calls {
                let sent = SECRETS.iter().find(|name| has(&call.environment, name));
                assert_eq!(sent, None, "{:?} has {:?}", call.words, call.environment);
            }
            let calls: Vec<Call> = calls.into_iter().filter(|call| !call.options.is_empty()).collect();
            assert_eq!(calls.len(), if line[0] == "run" { 2 } else { 1 });
            for Call { words, options, environment } in calls {
                let plain = cluster.plain_options(&words);
                assert_eq!(but_the_way(&options), but_the_way(&plain), "{words:?}");
                let said = |line: &str| assert!(options.lines().any(|one| one == line), "{line}: {options}");
                said("kexalgorithms curve25519-sha256@libssh.org,ecdh-sha2-nistp256");
                said("stricthostkeychecking true");
                said("identitiesonly yes");
                said("identityagent none");
                said("forwardagent no");
                said("permitlocalcommand no");
                said("stdinnull no");
                said("gssapidelegatecredentials no");
                assert_eq!(options.matches("\nidentityfile ").count(), 1, "{options}");
                for word in ["sendenv", "setenv", "certificatefile", "localforward", "remotecommand", "localcommand"] {
                    assert!(!options.contains(&format!("\n{word} ")), "{word}: {options}");
                }
                // A jump host is asked with the caller's agent; the node never is.
                assert!(has(&environment, "SSH_AUTH_SOCK") && has(&environment, "HOME"), "{environment:?}");
            }
        }
    }
}

#[test]
fn the_way_to_a_host_is_the_users_own() {
    let cluster = LaunchedCluster::of("");
    cluster.calls();
    let proxy = |options: &str| {
        let line = options.lines().find_map(|line| line.strip_prefix("proxycommand "));
        line.unwrap_or("none").to_owned()
    };
    for (config, command, credentials) in [
        ("", "none", false),
        ("Host 198.51.100.*\n ProxyCommand evil %h\n", "none", false),
        ("Match user root\n ProxyCommand evil %h\n", "none", false),
        ("Match user admin\n ProxyJump bastion\n", "ssh -W '[%h]:%p' -- bastion", false),
        ("ProxyJump me@bastion:2222\n", "ssh -l me -p 2222 -W '[%h]:%p' -- bastion", false),
        ("ProxyJump one,me@[2001:db8::1]:22\n", "ssh -l me -p 22 -J one -W '[%h]:%p' -- 2001:db8::1", false),
        ("ProxyCommand nc -X connect \"a b\" %h %p\n", "nc -X connect \"a b\" %h %p", true),
        ("ProxyCommand aws ssm start-session --target %h\n", "aws ssm start-session --target %h", true),
    ] {
        cluster.set_config(config);
        let mut command_line = cluster.command(&["cluster", "run", "web", "--", "true"]);
        let ran = with_secrets(&mut command_line).output().expect("it starts");
        assert!(ran.status.success(), "{config}: {}", String::from_utf8_lossy(&ran.stderr));
        let calls = connections(&cluster);
        assert_eq!(calls.len(), 2, "{config}");
        for call in calls {
            assert_eq!(proxy(&call.options), command, "{config}: {:?}", call.words);
            for name in ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"] {
                assert_eq!(has(&call.environment, name), credentials, "{config}: {:?}", call.environment);
            }
            for name in ["HF_TOKEN", "NGC_API_KEY", "GITHUB_PAT", "DB_PASSWORD"] {
                assert!(!has(&call.environment, name), "{config}: {:?}", call.environment);
            }
        }
    }
    cluster.set_config("HostName 127.0.0.9\nPort 2222\nBindAddress 127.0.0.1\nAddressFamily inet\n");
    assert_ran(&cluster.run(&["cluster", "run", "web", "--", "true"]), 0, &[]);
    for call in connections(&cluster) {
        for line in ["hostname 127.0.0.9", "port 2222", "bindaddress 127.0.0.1", "addressfamily inet"] {
            assert!(call.options.lines().any(|one| one == line), "{line}: {}", call.options);
        }
    }
    // What ssh itself can't read is said in its words.
    cluster.set_config("NoSuchOption yes\n");
    let ran = cluster.run(&["cluster", "run", "web", "--", "true"]);
    assert_ran(&ran, 5, &["ssh can't read your configuration", "nosuchoption"]);
}

/// The lines of a node's `authorized_keys` that are the cluster's.
fn ours(cluster: &LaunchedCluster, node: usize) -> Vec<String> {
    let text = cluster.authorized_keys(node);
    text.lines().filter(|line| line.ends_with(" efa-gen cluster web")).map(str::to_owned).collect()
}

#[test]
fn the_clusters_key_comes_in_from_the_clusters_addresses_alone() {
    let cluster = LaunchedCluster::of("");
    let public = public_of(&cluster.node(1).join(".ssh/efa-gen-cluster"));
    for node in [1, 2] {
        let lines = ours(&cluster, node);
        let options = "from=\"10.0.0.1,10.0.0.2,10.0.1.2\",no-agent-forwarding,no-port-forwarding,no-X11-forwarding";
        assert_eq!(lines, [format!("{options} {public} efa-gen cluster web")], "node {node}");
        let path = cluster.node(node).join(".ssh/authorized_keys");
        let listed = Command::new("ssh-keygen").arg("-lf").arg(&path).output().expect("ssh-keygen is there");
        assert!(String::from_utf8_lossy(&listed.stdout).contains("efa-gen cluster web"), "OpenSSH reads the line");
    }
    assert!(cluster.authorized_keys(1).contains("ssh-ed25519 AAAAmine me@home\n"), "what was there stays");
    // Whoever may read the user-data learns no key, and no line lets it in from everywhere.
    let text = cluster.user_data();
    assert!(text.contains("cloud-boothook") && !text.contains("authorized_keys"), "{text}");
    assert!(!text.contains(&public), "{text}");
}

#[test]
fn a_rekey_takes_the_old_key_from_every_node() {
    let cluster = LaunchedCluster::of("");
    let private = |node: usize| fs::read_to_string(cluster.node(node).join(".ssh/efa-gen-cluster")).expect("a key");
    let old = (private(1), ours(&cluster, 1));
    // A line of an efa-gen before this one, and one that only looks alike.
    for node in [1, 2] {
        let path = cluster.node(node).join(".ssh/authorized_keys");
        let former = "ssh-ed25519 AAAAformer efa-gen cluster web\nssh-ed25519 AAAAother efa-gen cluster web-2\n";
        fs::write(&path, cluster.authorized_keys(node) + former).expect("a file");
    }
    assert_ran(&cluster.run(&["cluster", "rekey", "web"]), 0, &["2 nodes have the new key"]);
    assert_ne!(private(1), old.0);
    assert_eq!(private(1), private(2));
    for node in [1, 2] {
        let lines = ours(&cluster, node);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("from=\"10.0.0.1,10.0.0.2,10.0.1.2\",no-agent-forwarding,") && lines != old.1);
        assert!(cluster.authorized_keys(node).contains("AAAAother efa-gen cluster web-2\n"));
        let asked = fs::read_to_string(cluster.node(node).join("sudo")).expect("root's was looked at");
        assert!(asked.contains("/root/.ssh/authorized_keys") && asked.contains(" efa-gen cluster web\\$"), "{asked}");
    }
    assert!(cluster.authorized_keys(1).contains("AAAAmine me@home\n"));
    // Where one does not answer, the others have the new key alone, and it is said who may not.
    let before = (ours(&cluster, 1), ours(&cluster, 2));
    fs::write(cluster.node(2).join("deaf"), "").expect("a file");
    let ran = cluster.run(&["cluster", "rekey", "web"]);
    assert_ran(
        &ran,
        6,
        &["1 of 2 nodes of cluster web may let the old key in still", "10.0.0.2: ", "cluster rekey web"],
    );
    assert_eq!(ours(&cluster, 2), before.1);
    assert_ne!(ours(&cluster, 1), before.0);
    assert_eq!(ours(&cluster, 1).len(), 1);
    // Made again, it is whole.
    fs::remove_file(cluster.node(2).join("deaf")).expect("a file");
    assert_ran(&cluster.run(&["cluster", "rekey", "web"]), 0, &[]);
    assert_eq!(ours(&cluster, 1), ours(&cluster, 2));
    assert_eq!(private(1), private(2));
    // Whoever copied the cluster's tags and token has no host key here: no node lets that address in.
    let mut held = cluster.held.lock().expect("what is held");
    let tags = held.nodes[0].clone();
    held.nodes.push(tags);
    drop(held);
    assert_ran(&cluster.run(&["cluster", "rekey", "web"]), 6, &["10.0.0.3: "]);
    for node in [1, 2] {
        let lines = ours(&cluster, node);
        assert!(lines.len() == 1 && lines[0].starts_with("from=\"10.0.0.1,10.0.0.2,10.0.1.2\","), "{lines:?}");
    }
}

#[test]
fn admit_only_exchanges_the_rules_that_efa_gen_made() {
    let cluster = LaunchedCluster::of("");
    let rules = || cluster.held.lock().expect("what is held").rules.clone();
    let cidrs = || rules().into_iter().map(|rule| rule.cidr).collect::<BTreeSet<_>>();
    let set = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(cidrs(), set(&["203.0.113.7/32"]));
    let description = rules()[0].description.clone();
    assert!(description.starts_with("efa-gen run "), "{description}");
    let admit = |more: &[&str]| cluster.run(&[&["cluster", "admit", "web"], more].concat());
    assert_ran(&admit(&["--ssh-cidr", "198.51.100.0/24"]), 0, &["open to 198.51.100.0/24 as well"]);
    // What others made: like ours but for the description, or for more than port 22.
    let theirs = |cidr: &str, ports, description: &str| {
        let rule = Rule { cidr: cidr.into(), ports, description: description.into() };
        cluster.held.lock().expect("what is held").rules.push(rule);
    };
    theirs("192.0.2.1/32", (22, 22), "the office");
    theirs("192.0.2.2/32", (22, 22), "");
    theirs("192.0.2.3/32", (0, 65535), &description);
    theirs("192.0.2.4/32", (443, 443), &description);
    // Nothing changes where what is given is wrong.
    let before = rules();
    assert_ran(&admit(&["--only", "--ssh-cidr", "0.0.0.0/0"]), 2, &["the whole Internet"]);
    assert_ran(&admit(&["--only", "--ssh-cidr", "me"]), 2, &["--ssh-cidr me"]);
    assert_eq!(rules(), before);
    let ran = admit(&["--only", "--ssh-cidr", "198.51.100.0/24", "--ssh-cidr", "203.0.113.8/32"]);
    let closed = "open to 198.51.100.0/24, 203.0.113.8/32, and no more to 203.0.113.7/32";
    assert_ran(
        &ran,
        0,
        &[closed, "192.0.2.1/32 reaches port 22 too", "\"the office\"", "192.0.2.2/32", "192.0.2.3/32"],
    );
    assert!(ran.stderr.contains("pl-1 reaches port 22 too"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("192.0.2.4") && !ran.stderr.contains("sg-1 reaches"), "{}", ran.stderr);
    let left = ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32", "198.51.100.0/24", "203.0.113.8/32"];
    assert_eq!(cidrs(), set(&left));
    // The new one is there before the old one goes.
    let actions = cluster.stage.stub.actions();
    let last = |action: &str| actions.iter().rposition(|name| name == action).expect("it was called");
    assert!(last("AuthorizeSecurityGroupIngress") < last("RevokeSecurityGroupIngress"));
    // Again, nothing is left to do; and a CIDR that EC2 writes otherwise is the same.
    let before = rules();
    let ran = admit(&["--only", "--ssh-cidr", "198.51.100.0/24", "--ssh-cidr", "203.0.113.8/32"]);
    assert!(ran.code == 0 && !ran.stderr.contains("no more to"), "{}", ran.stderr);
    assert_eq!(rules(), before);
}

#[test]
fn admit_only_takes_back_what_an_older_launch_opened() {
    let cluster = LaunchedCluster::of("");
    // Rules had no description once; the launch's own addresses are known.
    cluster.held.lock().expect("what is held").rules[0].description.clear();
    let ran = cluster.run(&["cluster", "admit", "web", "--only", "--ssh-cidr", "203.0.113.9/32"]);
    assert_ran(&ran, 0, &["no more to 203.0.113.7/32"]);
    let rules = cluster.held.lock().expect("what is held").rules.clone();
    assert_eq!(rules.iter().map(|rule| rule.cidr.as_str()).collect::<Vec<_>>(), ["203.0.113.9/32"]);
}

/// The public line of a private key, as OpenSSH reads it.
fn public_of(path: &Path) -> String {
    let asked = Command::new("ssh-keygen").args(["-y", "-f"]).arg(path).output().expect("ssh-keygen is there");
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    String::from_utf8_lossy(&asked.stdout).split(' ').take(2).collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

/// The login key of the one run.
fn login_key(cluster: &LaunchedCluster) -> PathBuf {
    let runs = fs::read_dir(cluster.stage.runs()).expect("runs").map(|run| run.expect("a run").path());
    runs.map(|run| run.join("key")).find(|key| key.exists()).expect("a login key")
}

#[test]
fn a_key_that_ec2_has_no_pairs_of_goes_through_the_user_data() {
    for (flags, kind) in [(&[][..], "ssh-ed25519"), (&["--key-type", "ecdsa"], "ecdsa-sha2-nistp256")] {
        let cluster = LaunchedCluster::with("", flags);
        let public = public_of(&login_key(&cluster));
        assert_eq!(public.split(' ').next(), Some(kind), "{flags:?}");
        let imports = cluster.stage.stub.calls("ImportKeyPair");
        let launch = cluster.stage.stub.calls("RunInstances").pop().expect("a launch");
        let text = cluster.user_data();
        if kind.starts_with("ecdsa") {
            // Nor is it asked whether EC2 would take one.
            assert_eq!(imports.len(), 0, "{flags:?}");
            assert!(!launch.contains_key("KeyName"), "{launch:?}");
            assert!(text.contains("ssh_authorized_keys") && text.contains(&public), "{text}");
        } else {
            let name = imports.last().expect("an import")["KeyName"].clone();
            assert_eq!(launch.get("KeyName"), Some(&name));
            assert!(!text.contains("ssh_authorized_keys"), "{text}");
        }
        // The nodes' sshd may take no other type between them, either.
        for _ in 0..2 {
            let between = public_of(&cluster.node(2).join(".ssh/efa-gen-cluster"));
            assert_eq!(between.split(' ').next(), Some(kind));
            assert!(ours(&cluster, 1)[0].contains(&between), "{between}");
            assert_ran(&cluster.run(&["cluster", "rekey", "web"]), 0, &[]);
        }
    }
    let stage = LaunchedCluster::of("");
    let dsa = stage.run(&["launch", "--nodes", "2", "--ami", "ami-0a0a0a0a", "--key-type", "dsa"]);
    assert_ran(&dsa, 2, &["ed25519, ecdsa, rsa"]);
}

#[test]
fn an_rsa_key_is_one_that_ec2_takes() {
    let cluster = LaunchedCluster::with("", &["--key-type", "rsa"]);
    let key = login_key(&cluster);
    let listed = Command::new("ssh-keygen").arg("-lf").arg(&key).output().expect("ssh-keygen is there");
    assert!(String::from_utf8_lossy(&listed.stdout).starts_with("4096 "), "{listed:?}");
    let import = cluster.stage.stub.calls("ImportKeyPair").pop().expect("an import");
    let material =
        String::from_utf8(base64::prelude::BASE64_STANDARD.decode(&import["PublicKeyMaterial"]).expect("base64"))
            .expect("text");
    assert!(material.starts_with(&public_of(&key)), "{material}");
}
