//! Owns the template engine: where templates are, their delimiters, and that a failure is our own bug.
//! Knows nothing of what they say.

use serde::Serialize;
use tera::{Context, Delimiters, EscapeFn, Tera};

use crate::error::{Class, Error, Result};

/// Fills a template. `escape` is applied to every value that the template does not mark as safe. Undefined
/// names are errors.
pub fn fill(name: &'static str, text: &str, escape: EscapeFn, view: &impl Serialize) -> Result<String> {
    // Neither bash, YAML nor HCL has these, while `{{` and `{#` mean something in each.
    let delimiters = Delimiters {
        block_start: "<%".into(),
        block_end: "%>".into(),
        variable_start: "<~".into(),
        variable_end: "~>".into(),
        comment_start: "<#".into(),
        comment_end: "#>".into(),
    };
    let fill = || {
        let mut tera = Tera::default();
        tera.set_delimiters(delimiters)?;
        tera.autoescape_on(vec![""]);
        tera.set_escape_fn(escape);
        tera.add_raw_template(name, text)?;
        tera.render(name, &Context::from_serialize(view)?)
    };
    fill()
        .map_err(|error: tera::Error| Error::new(Class::Bug, format!("template {name} can't be filled")).because(error))
}
