//! Owns what a preflight gathers: who pays, the problems, the notes.

use efa_gen::catalog::Catalog;

use super::problem::Problem;
use crate::aws::Aws;
use crate::aws::error::ApiError;
use crate::aws::model::Identity;

/// A preflight in one region: what is wrong, and what its user should know.
#[derive(Debug)]
pub struct PreflightContext<'a> {
    pub aws: &'a Aws,
    pub catalog: &'a Catalog,
    pub problems: Vec<Problem>,
    pub notes: Vec<String>,
}

impl<'a> PreflightContext<'a> {
    pub fn new(aws: &'a Aws, catalog: &'a Catalog) -> Self {
        PreflightContext { aws, catalog, problems: Vec::new(), notes: Vec::new() }
    }

    /// Takes a problem, once: two machines may have the same one.
    pub fn add(&mut self, problem: impl Into<Problem>) {
        let problem = problem.into();
        if !self.problems.iter().any(|known| known.what == problem.what) {
            self.problems.push(problem);
        }
    }

    /// Who pays. Without an answer nothing else would be answered either: then that is the first problem.
    pub async fn identity(&mut self) -> Option<Identity> {
        match self.aws.identity().await {
            Ok(identity) => Some(identity),
            Err(error) => {
                self.problems.insert(0, error.into());
                None
            }
        }
    }

    /// Takes what dry runs refused.
    pub fn add_dry_runs(&mut self, answers: Vec<Option<ApiError>>) {
        for error in answers.into_iter().flatten().filter(|error| !error.is_dry_run()) {
            self.add(error);
        }
    }
}
