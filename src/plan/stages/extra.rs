//! Owns the stage "extra": the user's own script.

use super::parts::stage;
use crate::error::{Class, Error, Result};
use crate::plan::action::{Action, GuestCommand};
use crate::plan::model::{Stage, Step, Then};
use crate::url::url_with_credentials;

const EXTRA_SCRIPT: &str = "/var/lib/efa-gen/extra-script";

pub(crate) fn extra(text: &str) -> Result<Stage> {
    if !text.starts_with("#!") {
        return Err(Error::new(Class::Usage, "the extra script does not begin with `#!`")
            .hint("begin it with the interpreter, for example `#!/bin/bash`"));
    }
    if text.contains('\0') {
        return Err(Error::new(Class::Usage, "the extra script holds a NUL byte, so it is not a text file"));
    }
    if let Some(url) = url_with_credentials(text) {
        return Err(Error::new(Class::Usage, format!("the extra script has a user name or password in a URL: {url}"))
            .hint("the script is public to whoever may launch the image: read the secret when it runs, e.g. from AWS Secrets Manager"));
    }
    let step = Step::new(
        "run",
        "Run the extra script",
        vec![
            Action::WriteFile { path: EXTRA_SCRIPT.into(), mode: "0700", content: text.to_owned() },
            GuestCommand::new([EXTRA_SCRIPT]).into(),
            Action::Remove { paths: vec![EXTRA_SCRIPT.into()] },
        ],
    )
    .hint("it is your own script; when it fails, this step runs it again from its beginning");
    Ok(stage("extra", "Your own steps", Then::Continue, vec![step]))
}
