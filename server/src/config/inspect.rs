//! What `koma doctor` looks at.

use super::values::Values;
use super::{ProcessConfig, Surroundings, process};
use crate::args::{DoctorArgs, Environment};
use std::path::PathBuf;

/// All that `koma doctor` needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DoctorConfig {
    pub(crate) process: ProcessConfig,
    /// None: the system's temporary folder.
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) json: Option<PathBuf>,
}

impl DoctorConfig {
    /// Reads flags and variables.
    ///
    /// # Errors
    /// As [`super::ServeConfig::resolve`].
    pub(crate) fn resolve(
        args: &DoctorArgs,
        environment: &Environment,
        around: &Surroundings,
    ) -> Result<Self, String> {
        let (flags, variables) = (args.layer(), environment.layer());
        let values = Values::new(&[&flags, &variables]);
        Ok(Self {
            process: process(&values, around)?,
            data_dir: values.text("data-dir").map(PathBuf::from),
            json: args.json.clone(),
        })
    }
}
