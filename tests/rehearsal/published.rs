//! Owns builds from the ready machine that publish their image in every way, in two regions, and what is to be seen there
//! afterwards. Knows no test.

use std::process::Command;

use serde_json::{Value, json};

use crate::account::{Account, tag};
use crate::machine::{assert_same, ran, text};

/// Every way of publishing, but for the region that it is copied to.
pub const WAYS: [&str; 8] = [
    "--no-encrypt",
    "--share",
    "111122223333",
    "--protect",
    "--deprecate-at",
    "2031-01-02T03:04:00Z",
    "--ssm-parameter",
    "/rehearsal/ami",
];

/// A region to build in and one for the copy, and what they held before.
pub struct Places {
    pub here: Account,
    there: Account,
    before: [Vec<String>; 2],
}

impl Places {
    /// Regions that no other test has.
    pub fn new() -> Self {
        let [here, there] = Account::for_builds();
        Self::of(here, there)
    }

    /// Three of them.
    pub fn three() -> [Self; 3] {
        let [a, b, c, d, e, f] = Account::for_builds();
        [Self::of(a, b), Self::of(c, d), Self::of(e, f)]
    }

    fn of(here: Account, there: Account) -> Self {
        here.ready_image();
        let before = [here.things(), there.things()];
        Places { here, there, before }
    }

    /// A build of an image of this name, with these options of calls.py.
    pub fn build(&self, options: &[&str], name: &str) -> Command {
        let to = ["--copy-to", self.there.region, "--name", name];
        self.here.short_build(options, &[&WAYS[..], &to].concat())
    }

    /// Nothing has come, nothing has gone.
    #[track_caller]
    pub fn are_as_before(&self) {
        assert_same(&self.before[0], &self.here.things());
        assert_same(&self.before[1], &self.there.things());
    }

    /// One sweep of the run, whose own record says where it was.
    pub fn sweep(&self, run: &str) {
        ran(&mut self.here.through(&[], &["sweep", "--run", run, "--yes"])).good();
    }

    /// Whatever there is of the run is published, and is removed as an image is: a sweep leaves it alone.
    pub fn remove_what_is_published(&self, run: &str) {
        for place in [&self.here, &self.there] {
            for image in place.images_of(run) {
                assert_eq!(tag(&image, "efa-gen:state"), "published", "{}: {image}", place.region);
                place.remove_image(&text(&image["ImageId"]), &["--unprotect"]).good();
            }
        }
    }

    /// The run made one instance, and one image that is published as asked in both regions; nothing else is left of it.
    pub fn came_to_one_image(&self, run: &str) {
        let made = self.here.instances_of(run);
        assert_eq!(made.len(), 1, "{made:?}");
        for place in [&self.here, &self.there] {
            let images = place.images_of(run);
            assert_eq!(images.len(), 1, "{}: {images:?}", place.region);
            is_published(place, &images[0]);
        }
        self.remove_what_is_published(run);
        self.are_as_before();
        self.here.keeps_no_secret();
    }
}

/// Everything is so that `WAYS` asks for.
#[track_caller]
pub fn is_published(account: &Account, image: &Value) {
    let id = text(&image["ImageId"]);
    assert_eq!((text(&image["State"]), tag(image, "efa-gen:state")), ("available".to_owned(), "published".to_owned()));
    assert_eq!(text(&image["DeprecationTime"]), "2031-01-02T03:04:00.000Z");
    assert!(text(&image["DeregistrationProtection"]).starts_with("enabled"), "{image}");
    let shared = account.call("describe_image_attribute", &json!({"ImageId": id, "Attribute": "launchPermission"}));
    assert_eq!(shared["LaunchPermissions"], json!([{"UserId": "111122223333"}]));
    let snapshot = text(&image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]);
    let snapshots = account.call("describe_snapshots", &json!({"SnapshotIds": [snapshot]}));
    assert!(tag(image, "efa-gen:efa").contains(" sha256:"), "{image}");
    for key in ["efa-gen:plan", "efa-gen:run", "efa-gen:efa", "efa-gen:nccl", "efa-gen:driver"] {
        assert!(!tag(image, key).is_empty(), "{key}: {image}");
        assert_eq!(tag(&snapshots["Snapshots"][0], key), tag(image, key), "{key} of the snapshot");
    }
    let parameter = account.call("ssm.get_parameter", &json!({"Name": "/rehearsal/ami"}));
    assert_eq!(text(&parameter["Parameter"]["Value"]), id);
}
