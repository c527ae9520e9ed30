//! [`File`]: `koma.toml` as it was written.

use super::{Layer, MODEL_KEYS, Origin, PROCESS_KEYS, Typed};
use std::path::Path;

/// What the file says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct File {
    pub(crate) settings: Layer,
    pub(crate) models: Vec<FileModel>,
}

/// One `[[model]]`.
#[derive(Debug, PartialEq)]
pub(crate) struct FileModel {
    pub(crate) name: Option<Typed>,
    pub(crate) source: Typed,
    pub(crate) class: Option<Typed>,
    pub(crate) settings: Layer,
}

impl File {
    /// Reads `text`, the contents of `path`.
    ///
    /// # Errors
    /// If it is not TOML, has a key that does not exist, or a value that is neither text nor number.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let table: toml::Table = text
            .parse()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let mut file = Self::default();
        for (key, value) in table {
            let place = Origin::File(path.to_owned(), key.clone());
            if key == "model" {
                file.models = models(path, value)?;
            } else if let Some(known) = find(&key, &[&MODEL_KEYS, &PROCESS_KEYS]) {
                file.settings.insert(known, typed(place, &value)?);
            } else {
                return Err(unknown(&place, &[&PROCESS_KEYS, &MODEL_KEYS, &["model"]]));
            }
        }
        Ok(file)
    }
}

fn models(path: &Path, value: toml::Value) -> Result<Vec<FileModel>, String> {
    let toml::Value::Array(tables) = value else {
        let path = path.display();
        return Err(format!(
            "{path}: models are written as [[model]], one for each"
        ));
    };
    let one = |(index, value)| file_model(path, index, value);
    tables.into_iter().enumerate().map(one).collect()
}

fn file_model(path: &Path, index: usize, value: toml::Value) -> Result<FileModel, String> {
    let toml::Value::Table(table) = value else {
        let path = path.display();
        return Err(format!("{path}: model {} is not a table", index + 1));
    };
    let title = table.get("name").and_then(toml::Value::as_str).map_or_else(
        || format!("model {}", index + 1),
        |name| format!("model `{name}`"),
    );
    let (mut name, mut source, mut class) = (None, None, None);
    let mut settings = Layer::new();
    for (key, value) in &table {
        let place = Origin::File(path.to_owned(), format!("{title}: {key}"));
        match (key.as_str(), find(key, &[&MODEL_KEYS])) {
            ("name", _) => name = Some(typed(place, value)?),
            ("source", _) => source = Some(typed(place, value)?),
            ("class", _) => class = Some(typed(place, value)?),
            (_, Some(known)) => {
                settings.insert(known, typed(place, value)?);
            }
            _ => {
                return Err(unknown(
                    &place,
                    &[&["name", "source", "class"], &MODEL_KEYS],
                ));
            }
        }
    }
    let source = source.ok_or_else(|| {
        let path = path.display();
        format!("{path}: {title}: `source` is missing")
    })?;
    Ok(FileModel {
        name,
        source,
        class,
        settings,
    })
}

fn find(key: &str, groups: &[&[&'static str]]) -> Option<&'static str> {
    groups.concat().into_iter().find(|known| *known == key)
}

fn unknown(place: &Origin, groups: &[&[&'static str]]) -> String {
    format!(
        "{place}: no such key; there are {}",
        groups.concat().join(", ")
    )
}

fn typed(origin: Origin, value: &toml::Value) -> Result<Typed, String> {
    let text = match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        _ => {
            let kind = value.type_str();
            return Err(format!("{origin}: a {kind} is not possible here"));
        }
    };
    Ok(Typed { text, origin })
}
