//! Owns the template engine: the delimiters, that a template is parsed once, and that a failure is our own bug.

use serde::Serialize;
use tera::{Context, Delimiters, EscapeFn, Tera};

use crate::error::{Class, Error, Result};

/// A parsed template, or why it can't be one.
pub struct Template {
    name: &'static str,
    parsed: tera::TeraResult<Tera>,
}

impl Template {
    /// Parses a template. `escape` is applied to every value that the template does not mark as safe.
    pub fn new(name: &'static str, text: &str, escape: EscapeFn) -> Self {
        // Neither bash, YAML nor HCL has these, while `{{` and `{#` mean something in each.
        let delimiters = Delimiters {
            block_start: "<%".into(),
            block_end: "%>".into(),
            variable_start: "<~".into(),
            variable_end: "~>".into(),
            comment_start: "<#".into(),
            comment_end: "#>".into(),
        };
        let parse = || {
            let mut tera = Tera::default();
            tera.set_delimiters(delimiters)?;
            tera.autoescape_on(vec![""]);
            tera.set_escape_fn(escape);
            tera.add_raw_template(name, text)?;
            Ok(tera)
        };
        Template { name, parsed: parse() }
    }

    /// Fills it. A name that the view lacks is an error.
    pub fn fill(&self, view: &impl Serialize) -> Result<String> {
        let failed = |error: String| {
            Error::new(Class::Bug, format!("template {} can't be filled", self.name)).with_source(error)
        };
        let tera = self.parsed.as_ref().map_err(|error| failed(error.to_string()))?;
        let context = Context::from_serialize(view).map_err(|error| failed(error.to_string()))?;
        tera.render(self.name, &context).map_err(|error| failed(error.to_string()))
    }
}
