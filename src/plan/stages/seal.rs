//! Owns what is checked and cleared before a machine becomes an image.

use super::parts::{give_timers_back, package_run, write_file};
use crate::catalog::InitSystem;
use crate::catalog::distribution::Distribution;
use crate::plan::action::{Action, Assertion};
use crate::plan::model::{LOG_DIR, STATE_DIR, Stage, Step, Then, When};

/// More homes than those that passwd names: whoever is gone may have left one.
const MORE_HOMES: &str = "/home/*";

/// What cloud-init, and whoever took the machine in, know of this instance.
const INSTANCE: [&str; 19] = [
    // All of it: cloud-init makes its folders anew.
    "/var/lib/cloud/*",
    "/etc/hostname",
    "/etc/machine-info",
    "/var/lib/dbus/machine-id",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/etc/docker/key.json",
    "/var/lib/docker/engine-id",
    "/etc/nvme/hostid",
    "/etc/nvme/hostnqn",
    "/var/lib/yum/uuid",
    // Addresses that were leased, and the key that NetworkManager makes its identifiers of.
    "/var/lib/dhclient/*",
    "/var/lib/dhcp/*",
    "/var/lib/dhcpcd*/*",
    "/var/db/dhcpcd/*",
    "/etc/dhcpcd.duid",
    "/etc/dhcpcd.secret",
    "/var/lib/NetworkManager/*lease*",
    "/var/lib/NetworkManager/secret_key",
    "/var/lib/NetworkManager/timestamps",
];

/// Where the iSCSI initiator's name is: one machine's own. How the next boot makes another is the distribution's.
const INITIATOR: &str = "/etc/iscsi/initiatorname.iscsi";

/// Random numbers that all instances would begin with, and the key of systemd's credentials (systemd, "Building Images
/// Safely"): where systemd has them, and where scripts before it did.
const SEEDS: [&str; 6] = [
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/urandom/random-seed",
    "/boot/loader/random-seed",
    "/boot/efi/loader/random-seed",
    "/efi/loader/random-seed",
];

/// What is emptied and stays: for systemd an empty machine-id is one that is still to be made; an init script writes this seed
/// at each shutdown, and what is written there is kept from the disk by then.
const EMPTIED: [&str; 2] = ["/etc/machine-id", "/var/lib/random-seed"];

/// Keys and tokens of the machine.
const MACHINE_SECRETS: [&str; 33] = [
    "/etc/ssh/ssh_host_*",
    "/etc/dropbear/dropbear_*_host_key",
    // The SSM agent's registration.
    "/var/lib/amazon/ssm",
    // The key with which DKMS signs modules, in DKMS's own place and in Ubuntu's; DKMS makes another when it needs one.
    "/var/lib/dkms/mok.*",
    "/var/lib/shim-signed/mok/MOK.*",
    // Subscriptions: of this machine, not what the image's packages brought.
    "/etc/pki/consumer/*",
    "/etc/pki/entitlement/*",
    "/etc/pki/entitlement-host/*",
    "/etc/sysconfig/rhn/systemid",
    "/var/lib/rhsm/cache/*",
    "/var/lib/rhsm/facts/*",
    "/etc/insights-client/machine-id",
    "/etc/insights-client/.registered",
    "/var/lib/ubuntu-advantage/private",
    "/var/lib/ubuntu-advantage/machine-*.json",
    "/var/lib/ubuntu-advantage/status*.json",
    "/var/lib/landscape/client/*",
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d/*",
    // Directories and configuration management.
    "/etc/krb5.keytab",
    "/var/kerberos/krb5/user/*",
    "/var/lib/sss/db/*",
    "/var/lib/sss/mc/*",
    "/var/lib/sss/secrets/*",
    "/var/lib/samba/private/*.tdb",
    "/etc/salt/minion_id",
    "/etc/salt/pki/minion/*",
    "/etc/puppet/ssl",
    "/etc/puppetlabs/puppet/ssl",
    "/var/lib/puppet/ssl",
    "/etc/chef/*.pem",
    "/var/lib/tailscale/*",
    "/etc/enroot/.credentials",
];

/// What was in memory, in somebody's mail, or waits for its time. A user's crontab and at's jobs name what their user can
/// reach, at's with his whole environment; what every instance is to do belongs into /etc/cron.d, which stays. Of the
/// folders of jobs that lie in others, the daemons make none anew: patterns name their files alone.
const LEFT_BEHIND: [&str; 34] = [
    "/core",
    "/core.*",
    "/var/crash/*",
    "/var/core/*",
    "/var/lib/apport/coredump/*",
    "/var/lib/systemd/coredump/*",
    "/var/lib/systemd/pstore/*",
    "/var/spool/abrt/*",
    "/var/spool/abrt-upload/*",
    "/var/spool/cron/crontabs/*",
    "/var/spool/cron/tabs/*",
    "/var/spool/cron/atjobs/*",
    "/var/spool/cron/atspool/*",
    "/var/spool/at/.SEQ",
    "/var/spool/at/?[0-9a-f][0-9a-f]*",
    "/var/spool/at/spool/*",
    "/var/mail/*",
    "/var/spool/mail/*",
    "/var/spool/mqueue/*",
    "/var/spool/clientmqueue/*",
    "/var/spool/exim*/input/*",
    "/var/spool/exim*/msglog/*",
    "/var/spool/postfix/active/*",
    "/var/spool/postfix/bounce/*",
    "/var/spool/postfix/corrupt/*",
    "/var/spool/postfix/defer*/*",
    "/var/spool/postfix/hold/*",
    "/var/spool/postfix/incoming/*",
    "/var/spool/postfix/maildrop/*",
    // The names of all files, those that are gone among them.
    "/var/lib/mlocate/*",
    "/var/lib/plocate/*",
    "/var/cache/locate/*",
    "/tmp/*",
    "/var/tmp/*",
];

/// Where swap files are.
const SWAP_FILES: [&str; 3] = ["/swap*", "/swap/*", "/var/swap*"];

/// Logs that are kept by number or date, and databases of logins; all other logs are emptied.
const OLD_LOGS: [&str; 9] = [
    LOG_DIR,
    "/var/log/journal/*",
    "/var/log/*.gz",
    "/var/log/*.[0-9]",
    "/var/log/*-[0-9]*",
    "/var/lib/wtmpdb/*",
    "/var/lib/lastlog/*",
    "/var/lib/fail2ban/*",
    "/var/lib/sudo/*",
];

/// What a user's home has of credentials and traces. Named, because a home may hold anything: what is not named is the
/// image's own. Of .ssh see [`stage`].
const IN_HOMES: [&str; 119] = [
    // A cluster's addresses, which efa-gen puts there; its script, if an upload was cut.
    "hostfile",
    "efa-gen-install.sh",
    // Who may log in without a key.
    ".rhosts",
    ".shosts",
    ".k5login",
    // Keys of people, by the names that they have.
    "*.pem",
    "*.ppk",
    "*.p12",
    "*.pfx",
    "*.kdbx",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    // Most programs keep their tokens there; what an image is to bring for its users belongs into /etc.
    ".config",
    // Clouds.
    ".aws",
    ".azure",
    ".boto",
    ".gsutil",
    ".s3cfg",
    ".s3cmd",
    ".s3ql",
    ".passwd-s3fs",
    ".mc/config.json*",
    ".rclone.conf",
    ".oci",
    ".aliyun",
    ".bluemix",
    ".terraform.d/credentials*",
    ".terraformrc",
    ".pulumi/credentials*",
    ".vault-token",
    ".vault_pass*",
    ".fly",
    ".databrickscfg",
    ".snowflake",
    ".snowsql",
    // Containers and clusters.
    ".docker/*.json",
    ".docker/*.pem",
    ".docker/.*token*",
    ".docker/contexts",
    ".docker/trust",
    ".dockercfg",
    ".enroot/.credentials",
    ".kube",
    ".minikube",
    ".argocd",
    // Models and data.
    ".ngc",
    ".cache/*token*",
    ".cache/*/*token*",
    ".cache/*credential*",
    ".cache/*/*credential*",
    ".cache/git",
    ".huggingface",
    ".kaggle",
    ".wandb",
    ".comet.config",
    ".mlflow",
    ".openai",
    // Sources and packages.
    ".netrc*",
    "_netrc",
    ".authinfo*",
    ".git-credential*",
    ".gitcookies",
    ".npmrc",
    ".yarnrc*",
    ".pypirc",
    ".cargo/credentials*",
    ".gem/credentials",
    ".local/share/gem/credentials",
    ".bundle/config",
    ".m2/settings*.xml",
    ".gradle/gradle.properties",
    ".ivy2/.credentials",
    ".sbt/.credentials",
    ".nuget/NuGet/NuGet.Config",
    ".composer/auth.json",
    // Keys, passwords, databases.
    ".gnupg",
    ".password-store",
    ".local/share/keyrings",
    ".local/share/python_keyring",
    ".pki",
    ".putty",
    ".google_authenticator",
    ".pgpass*",
    ".pg_service.conf",
    ".my.cnf",
    ".mylogin.cnf",
    ".mongorc.js",
    ".cassandra/credentials",
    ".influxdbv2",
    ".smbcredentials*",
    ".credentials",
    ".msmtprc",
    ".fetchmailrc",
    ".jupyter/*server_config.json",
    ".local/share/jupyter/runtime",
    ".ansible/*token*",
    ".ansible/tmp",
    ".ansible/cp",
    ".Xauthority*",
    ".ICEauthority*",
    // Histories, and what editors and remote tools remember.
    ".*history*",
    ".histfile*",
    ".zsh_sessions",
    ".bash_sessions",
    ".lesshs*",
    ".viminf*",
    ".vim/.netrwhist",
    ".nano/*history*",
    ".wget-hsts",
    ".recently-used*",
    ".local/share/*history*",
    ".local/share/fish",
    ".local/share/mc",
    ".local/share/nvim",
    ".local/state",
    ".ipython",
    ".vscode-server",
];

/// Removes these, and checks afterwards that they are gone: one list, so that neither forgets what the other knows.
fn gone(paths: &[&str]) -> Vec<Action> {
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    vec![Action::Remove { paths: paths.clone() }, Action::Assert(Assertion::Gone { paths })]
}

/// The same in every home.
fn gone_from_homes(paths: &[&str]) -> Vec<Action> {
    let (homes, paths) = (MORE_HOMES.to_owned(), paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
    vec![
        Action::StripSsh { homes: homes.clone() },
        Action::RemoveFromHomes { homes: homes.clone(), paths: paths.clone() },
        Action::Assert(Assertion::SshStripped { homes: homes.clone() }),
        Action::Assert(Assertion::GoneFromHomes { homes, paths }),
    ]
}

/// Empties these; the action sees that nothing is in them.
fn emptied(paths: &[&str]) -> Vec<Action> {
    vec![Action::Empty { paths: paths.iter().map(|path| (*path).to_owned()).collect() }]
}

pub(crate) fn stage(distribution: &Distribution, init: &InitSystem) -> Stage {
    let steps = vec![
        Step::new(
            "kernels",
            "Check that every kernel can boot",
            vec![
                Action::Assert(Assertion::Initramfs { path: distribution.kernel.initramfs.clone() }),
                Action::Assert(Assertion::DkmsInstalled),
            ],
        )
        .why("an image whose kernel has no initramfs does not boot, and only its users find out")
        .hint("rebuild the initramfs of the kernel that is named, then run this stage again"),
        Step::new("packages", "Remove downloaded packages and build trees", {
            let mut actions = vec![package_run(&distribution.packages.clean).into()];
            actions.extend(give_timers_back(distribution));
            let own = ["src", "extra-script*", "hostfile", "kernel-gcc"].map(|name| format!("{STATE_DIR}/{name}"));
            actions.extend(gone(&own.each_ref().map(String::as_str)));
            actions
        }),
        Step::new("quiet", "Stop what would write to the disk again", quiet(init))
            .why("logs of the logins that come after this, leases, and a seed that is saved at shutdown would be in the image"),
        Step::new("identity", "Remove the machine's identity", identity(distribution))
            .why("so that each instance of the image runs cloud-init as new, and is a machine of its own"),
        Step::new("secrets", "Remove keys and tokens of the machine", gone(&MACHINE_SECRETS))
            .why("cloud-init makes new host keys on each instance"),
        Step::new("homes", "Remove keys, credentials and histories from every home", gone_from_homes(&IN_HOMES))
            .why("cloud-init installs the launch's key on each instance"),
        Step::new("traces", "Remove dumps, mail, jobs and temporary files", {
            let files = SWAP_FILES.map(str::to_owned).to_vec();
            let mut actions = vec![Action::RemoveSwap { fstab: "/etc/fstab".into(), files }];
            actions.extend(gone(&LEFT_BEHIND));
            // Where crontabs lie beside folders.
            actions.extend(emptied(&["/var/spool/cron/*"]));
            actions
        }),
        Step::new("logs", "Empty the logs", [gone(&OLD_LOGS), emptied(&["/var/log/*"])].concat()),
        Step::new("script", "Replace this script by its digest", vec![Action::LeaveDigest])
            .why("it holds the extra script, and the image may be anybody's"),
    ];
    Stage { id: "seal", title: "Seal the image".into(), then: Then::Continue, run: When::Image, steps }
}

fn quiet(init: &InitSystem) -> Vec<Action> {
    let quiesce = |argv: &Vec<String>| Action::Quiesce { booted: init.booted.clone(), argv: argv.clone() };
    init.quiesce.iter().map(quiesce).collect()
}

fn identity(distribution: &Distribution) -> Vec<Action> {
    let seal = &distribution.seal;
    let renewed = seal.renew.iter().any(|file| file.path == INITIATOR);
    let initiator: &[&str] = if renewed { &[] } else { &[INITIATOR] };
    let mut actions = emptied(&EMPTIED);
    actions.extend(gone(&[&INSTANCE[..], &SEEDS, initiator].concat()));
    for file in &seal.renew {
        actions.push(Action::Renew { path: file.path.clone(), content: file.content.clone() });
    }
    actions.extend(seal.write.iter().map(write_file));
    actions
}
