//! Which models are meant: by arguments, variable, file, or `SageMaker`'s folder; and their names.

use super::values::read_one;
use super::{ModelConfig, Surroundings};
use crate::args::{Environment, File, FileModel, Layer, ServeArgs, Typed};
use koma_engine::models::kernels::Class;
use koma_engine::models::{Source, models_in};
use std::path::{Path, PathBuf};

/// A model as it was given.
#[derive(Debug)]
pub(super) struct Given<'a> {
    name: Option<String>,
    pub(super) source: String,
    class: Option<&'a Typed>,
    /// Its own settings in the file.
    pub(super) settings: Option<&'a Layer>,
}

impl Given<'_> {
    pub(super) fn class(&self) -> Result<Option<Class>, String> {
        let read = |text: &str| match text {
            "auto" => Some(None),
            "latency" => Some(Some(Class::Latency)),
            "throughput" => Some(Some(Class::Throughput)),
            _ => None,
        };
        let read = |typed| read_one(typed, read, || "auto, latency, throughput".to_owned());
        Ok(self.class.map(read).transpose()?.flatten())
    }
}

/// The models of the first place that names any, and whether that is `SageMaker`'s folder.
pub(super) fn given<'a>(
    args: &ServeArgs,
    environment: &Environment,
    file: Option<&'a (&Path, File)>,
    around: &Surroundings,
) -> Result<(Vec<Given<'a>>, bool), String> {
    let from_texts = |texts: &[String]| -> Result<Vec<Given<'a>>, String> {
        texts.iter().map(|text| from_text(text)).collect()
    };
    if !args.sources.is_empty() {
        return Ok((from_texts(&args.sources)?, false));
    }
    let sources = environment.sources();
    if !sources.is_empty() {
        return Ok((
            from_texts(&sources).map_err(|error| in_variable(&error))?,
            false,
        ));
    }
    let tables = file.map(|(path, file)| (*path, file.models.as_slice()));
    if let Some((path, tables @ [_, ..])) = tables {
        let one = |table: &'a FileModel| Given {
            name: table.name.as_ref().map(|name| name.text.clone()),
            source: beside(path, &table.source.text),
            class: table.class.as_ref(),
            settings: Some(&table.settings),
        };
        return Ok((tables.iter().map(one).collect(), false));
    }
    let found = in_folder(&around.sagemaker)?;
    if found.is_empty() {
        let folder = around.sagemaker.display();
        return Err(format!(
            "no model is given: name at least one [NAME=]SOURCE, a folder, a .gguf or .tar.gz file, a hub id or a folder on S3 \
             ({folder}, where SageMaker puts models, does not exist or is empty)"
        ));
    }
    Ok((found, true))
}

fn in_variable(error: &str) -> String {
    format!("KOMA_MODELS: {error}")
}

/// `[NAME=]SOURCE`. What exists as a whole is a source, so a path may hold `=`.
pub(super) fn from_text<'a>(text: &str) -> Result<Given<'a>, String> {
    let split = text.split_once('=').filter(|_| !Path::new(text).exists());
    let (name, source) = match split {
        Some((name, source)) => (Some(name.to_owned()), source),
        None => (None, text),
    };
    if source.is_empty() {
        return Err(format!(
            "`{text}`: the source is missing; a model is given as [NAME=]SOURCE"
        ));
    }
    Ok(Given {
        name,
        source: source.to_owned(),
        class: None,
        settings: None,
    })
}

/// A source in a file means a path relative to that file, if there is such a path.
fn beside(file: &Path, source: &str) -> String {
    let folder = file.parent().unwrap_or(Path::new(""));
    let path = folder.join(source);
    if path.exists() {
        path.to_string_lossy().into_owned()
    } else {
        source.to_owned()
    }
}

/// The models in `SageMaker`'s folder.
fn in_folder<'a>(folder: &Path) -> Result<Vec<Given<'a>>, String> {
    let models = models_in(folder).map_err(|error| error.to_string())?;
    let shown = folder.display();
    if models.is_empty() && std::fs::read_dir(folder).is_ok_and(|mut all| all.next().is_some()) {
        return Err(format!(
            "{shown} holds no model: neither a config.json or MLmodel, nor a .gguf or .tar.gz file, nor a folder that leads to one"
        ));
    }
    let one = |path: &PathBuf| Given {
        name: None,
        source: path.to_string_lossy().into_owned(),
        class: None,
        settings: None,
    };
    Ok(models.iter().map(one).collect())
}

/// Name and source.
pub(super) fn identify(given: &Given<'_>) -> Result<(String, Source), String> {
    let source = Source::parse(&given.source).map_err(|error| error.to_string())?;
    let name = given.name.clone().unwrap_or_else(|| source.stem());
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:/@+".contains(c);
    let valid = (1..=128).contains(&name.len()) && name.chars().all(allowed);
    if valid {
        return Ok((name, source));
    }
    Err(format!(
        "`{name}` cannot be the name of a model; allowed: 1 to 128 letters, digits and . _ - : / @ + \
         (NAME=SOURCE gives another name)"
    ))
}

pub(super) fn check_distinct(models: &[ModelConfig]) -> Result<(), String> {
    for (index, model) in models.iter().enumerate() {
        let before = models[..index]
            .iter()
            .find(|other| other.name == model.name);
        if let Some(before) = before {
            return Err(format!(
                "two models have the name `{}` ({} and {}); give one another name with NAME=SOURCE",
                model.name, before.root, model.root
            ));
        }
    }
    Ok(())
}
