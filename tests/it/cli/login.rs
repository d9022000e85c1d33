//! How AWS is reached, and as whom: through the caller's proxy, with the certificates that the caller names, in the region of
//! the profile. Against a proxy that ends TLS before a stub of AWS, by the names that AWS has.

use std::fs;
use std::path::Path;

use crate::support::aws::{Params, Stub, done};
use crate::support::tls::{CERTIFICATE, Proxy};
use crate::support::{Ran, command, scratch, stderr, stdout};

/// What no message may show.
const PASSWORD: &str = "s3cret-word";

/// AWS, with nothing in it.
fn aws() -> Stub {
    Stub::start(|action, _: &Params| {
        match action {
        "GetCallerIdentity" => done(
            action,
            "<GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/u</Arn><Account>111122223333</Account></GetCallerIdentityResult>",
        ),
        "AssumeRole" => done(
            action,
            "<AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>z</SecretAccessKey>\
             <SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
             <AssumedRoleUser><Arn>arn:aws:sts::111122223333:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId></AssumedRoleUser></AssumeRoleResult>",
        ),
        // Credentials of SSO.
        "" => (
            200,
            r#"{"roleCredentials": {"accessKeyId": "ASIASSO", "secretAccessKey": "z", "sessionToken": "t", "expiration": 4070908800000}}"#
                .to_owned(),
        ),
        _ => done(action, ""),
    }
    })
}

/// Runs it with these variables, in this home.
fn run(home: &Path, arguments: &[&str], proxy: Option<(&Proxy, &str)>, variables: &[(&str, &str)]) -> Ran {
    let mut command = command(arguments);
    if let Some((proxy, user)) = proxy {
        proxy.set(&mut command, user);
    }
    let output = command.env("HOME", home).envs(variables.iter().copied()).output().expect("it starts");
    Ran { code: output.status.code().unwrap_or(-1), stdout: stdout(&output), stderr: stderr(&output) }
}

const KEYS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y"), ("AWS_REGION", "us-east-1")];

#[test]
fn every_call_goes_through_the_proxy() {
    let (home, aws) = (scratch(), aws());
    for (password, user) in [(None, String::new()), (Some("me:p%40ss"), "me:p%2540ss@".to_owned())] {
        let proxy = Proxy::start(&aws.url, password);
        let asked = |arguments: &[&str]| run(home.path(), arguments, Some((&proxy, &user)), &KEYS);
        let ran = asked(&["images"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let ran = asked(&["sweep", "--region", "eu-west-1", "--region", "us-east-1"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        // The plan fails, because there is nothing in the account.
        asked(&["build", "--distro", "debian12", "--plan", "--ssh-cidr", "203.0.113.7/32"]);
        for host in ["ec2.us-east-1", "ec2.eu-west-1", "sts.us-east-1"] {
            let host = format!("{host}.amazonaws.com:443");
            assert!(proxy.asked().contains(&host), "{host}: {:?}", proxy.asked());
        }
    }
}

#[test]
fn credentials_come_through_the_proxy_too() {
    let (home, aws) = (scratch(), aws());
    let proxy = Proxy::start(&aws.url, Some("me:word"));
    let folder = home.path().join(".aws/sso/cache");
    fs::create_dir_all(&folder).expect("a folder");
    // The name of a token's file is the SHA-1 of its start URL.
    let url = "https://example.awsapps.com/start";
    let token = format!(
        r#"{{"startUrl": "{url}", "region": "us-east-1", "accessToken": "t", "expiresAt": "2099-01-01T00:00:00Z"}}"#
    );
    fs::write(folder.join("e8be5486177c5b5392bd9aa76563515b29358e6e.json"), &token).expect("a file");
    let config = format!(
        "[profile keys]\naws_access_key_id = x\naws_secret_access_key = y\n\
         [profile chained]\nrole_arn = arn:aws:iam::111122223333:role/r\nsource_profile = keys\nregion = eu-west-1\n\
         [profile sso]\nsso_start_url = {url}\nsso_region = us-east-1\nsso_account_id = 111122223333\nsso_role_name = r\nregion = us-east-1\n"
    );
    fs::write(home.path().join(".aws/config"), config).expect("a file");
    // The role's region is the profile's, whose name is given or not.
    for (flags, variables) in [(&["--profile", "chained"][..], &[][..]), (&[], &[("AWS_PROFILE", "chained")][..])] {
        let before = proxy.asked().len();
        let ran = run(home.path(), &[&["images"], flags].concat(), Some((&proxy, "me:word@")), variables);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let asked = proxy.asked().split_off(before);
        assert_eq!(asked, ["sts.eu-west-1.amazonaws.com:443", "ec2.eu-west-1.amazonaws.com:443"], "{}", ran.stderr);
    }
    assert_eq!(aws.calls("AssumeRole").len(), 2);
    let ran = run(home.path(), &["images", "--profile", "sso"], Some((&proxy, "me:word@")), &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(proxy.asked().iter().any(|host| host == "portal.sso.us-east-1.amazonaws.com:443"), "{:?}", proxy.asked());
}

#[test]
fn a_proxy_that_refuses_is_named_and_its_password_is_not() {
    let (home, aws) = (scratch(), aws());
    let proxy = Proxy::start(&aws.url, Some("me:right"));
    let refused = |user: &str| {
        let ran = run(home.path(), &["images"], Some((&proxy, user)), &KEYS);
        assert_eq!(ran.code, 10, "{}", ran.stderr);
        assert!(ran.stderr.contains("proxy") && ran.stderr.contains("HTTPS_PROXY"), "{}", ran.stderr);
        assert!(!ran.stderr.contains(PASSWORD), "{}", ran.stderr);
    };
    // Each is tried again for a while.
    std::thread::scope(|scope| {
        scope.spawn(|| refused(""));
        refused(&format!("me:{PASSWORD}@"));
    });
    assert_eq!(aws.actions(), [""; 0]);
}

#[test]
fn what_no_proxy_names_is_asked_directly() {
    let (home, aws) = (scratch(), aws());
    let proxy = Proxy::start(&aws.url, None);
    let by_name = aws.url.replace("127.0.0.1", "localhost");
    for (endpoint, none) in
        [(&aws.url, "example.org,127.0.0.1"), (&aws.url, "127.0.0.0/8"), (&by_name, "localhost"), (&by_name, "*")]
    {
        let variables = [&KEYS[..], &[("AWS_ENDPOINT_URL", endpoint.as_str()), ("NO_PROXY", none)]].concat();
        let url = format!("http://{}", proxy.address);
        let ran = run(home.path(), &["images"], None, &[&variables[..], &[("HTTP_PROXY", url.as_str())]].concat());
        assert_eq!((ran.code, proxy.asked()), (0, Vec::new()), "{none}: {}", ran.stderr);
    }
    assert_eq!(aws.calls("DescribeImages").len(), 4);
}

#[test]
fn only_certificates_that_are_named_are_believed() {
    let (home, aws) = (scratch(), aws());
    let proxy = Proxy::start(&aws.url, None);
    let images = |bundle: &str| {
        run(home.path(), &["images"], Some((&proxy, "")), &[&KEYS[..], &[("AWS_CA_BUNDLE", bundle)]].concat())
    };
    // Without one, the machine's own.
    let ran = images("");
    assert_eq!(ran.code, 10, "{}", ran.stderr);
    assert!(ran.stderr.contains("AWS_CA_BUNDLE"), "{}", ran.stderr);
    assert_eq!(aws.actions(), [""; 0]);
    let file = |text: &str| {
        let path = home.path().join("bundle.pem");
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let good = fs::read_to_string(CERTIFICATE).expect("a file");
    let cut = good.lines().filter(|line| !line.starts_with("MIIB")).collect::<Vec<_>>().join("\n");
    for bad in ["/nonexistent/bundle.pem", &file(""), &file("no certificate")] {
        let ran = images(bad);
        assert_eq!(ran.code, 10, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("AWS_CA_BUNDLE {bad}: ")), "{}", ran.stderr);
    }
    for bad in [cut, good.replace('A', "B"), good.replace("-----END", "-----EN")] {
        let path = file(&bad);
        let ran = images(&path);
        assert_eq!(ran.code, 10, "{}", ran.stderr);
        assert!(ran.stderr.contains(&path) && !ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    assert_eq!(images(&file(&format!("{good}\n{good}"))).code, 0);
    // A profile may name it.
    fs::create_dir_all(home.path().join(".aws")).expect("a folder");
    fs::write(home.path().join(".aws/config"), format!("[default]\nca_bundle = {CERTIFICATE}\n")).expect("a file");
    assert_eq!(images("").code, 0);
}

#[test]
fn a_profile_that_asks_for_an_mfa_code_is_said() {
    let (home, aws) = (scratch(), aws());
    let proxy = Proxy::start(&aws.url, None);
    fs::create_dir_all(home.path().join(".aws")).expect("a folder");
    let role = "role_arn = arn:aws:iam::111122223333:role/r\nregion = us-east-1\n";
    let device = "mfa_serial = arn:aws:iam::111122223333:mfa/me\n";
    let config = format!(
        "[profile keys]\naws_access_key_id = x\naws_secret_access_key = y\n[profile mfa]\n{role}source_profile = keys\n{device}\
         [profile second]\n{role}source_profile = mfa\n[profile round]\n{role}source_profile = ring\n[profile ring]\n{role}source_profile = round\n\
         [profile device]\nregion = us-east-1\naws_access_key_id = x\naws_secret_access_key = y\n{device}"
    );
    fs::write(home.path().join(".aws/config"), config).expect("a file");
    for name in ["mfa", "second"] {
        for (flags, variables) in
            [(&["--profile", name][..], &KEYS[..]), (&[], &[("AWS_PROFILE", name), ("AWS_REGION", "us-east-1")][..])]
        {
            let ran = run(home.path(), &[&["images"], flags].concat(), Some((&proxy, "")), variables);
            assert_eq!(ran.code, 10, "{}", ran.stderr);
            for words in ["profile mfa takes the role", "mfa/me (mfa_serial)", "hint: efa-gen asks for no code"] {
                assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
            }
        }
    }
    assert_eq!(aws.calls("AssumeRole").len(), 0);
    // A ring ends, a device without a role asks for nothing, and keys of the environment come first.
    let ran = run(home.path(), &["images", "--profile", "round"], Some((&proxy, "")), &[]);
    assert_eq!(ran.code, 10, "{}", ran.stderr);
    assert_eq!(run(home.path(), &["images", "--profile", "device"], Some((&proxy, "")), &[]).code, 0);
    let mfa = [&KEYS[..], &[("AWS_PROFILE", "mfa")]].concat();
    assert_eq!(run(home.path(), &["images"], Some((&proxy, "")), &mfa).code, 0);
}

#[test]
fn a_profile_without_a_region_is_told_so() {
    let home = scratch();
    fs::create_dir_all(home.path().join(".aws")).expect("a folder");
    let config = "[profile keys]\naws_access_key_id = x\naws_secret_access_key = y\n\
                  [profile chained]\nrole_arn = arn:aws:iam::111122223333:role/r\nsource_profile = keys\n";
    fs::write(home.path().join(".aws/config"), config).expect("a file");
    let quiet = [("AWS_EC2_METADATA_DISABLED", "true")];
    for name in ["keys", "chained"] {
        let ran = run(home.path(), &["images", "--profile", name], None, &quiet);
        assert_eq!(ran.code, 10, "{}", ran.stderr);
        assert!(
            ran.stderr.contains("no region is set") && ran.stderr.contains("hint: give --region"),
            "{}",
            ran.stderr
        );
    }
}
