//! Koma's own folder for data: models unpacked from archives and fetched from S3.

use super::{Cached, DEPTH, Folder, Other, outlined, walk};
use anyhow::Context;
use koma_engine::models::{
    FetchOptions, KeptFrom, KeptModel, LoadOptions, OtherKind, Source, kept,
};
use std::path::Path;

/// Lists what is in the folder for data `path`, without the hub's cache in it; a folder that is not there is empty.
///
/// # Errors
/// If it cannot be read.
pub(in super::super) fn list(path: &Path) -> anyhow::Result<Folder> {
    let kept = kept(path).with_context(|| path.display().to_string())?;
    // The links that show an `MLflow` model as one folder are there.
    let options = LoadOptions {
        fetch: FetchOptions {
            data_dir: Some(path.to_owned()),
            ..FetchOptions::default()
        },
        ..LoadOptions::default()
    };
    let models = kept.models.into_iter().map(|model| cached(model, &options));
    let mut models = models.collect::<anyhow::Result<Vec<Cached>>>()?;
    models.sort_by(|a, b| (&a.source, &a.path).cmp(&(&b.source, &b.path)));
    let others = kept.others.into_iter().map(|other| Other {
        what: match other.what {
            OtherKind::Download => "unfinished download",
            OtherKind::Unpacking => "archive unpacked in part",
            OtherKind::Packed => "archive as it was fetched",
        },
        path: other.path,
        bytes: other.bytes,
    });
    Ok(Folder {
        path: path.to_owned(),
        models,
        others: others.collect(),
    })
}

fn cached(model: KeptModel, options: &LoadOptions) -> anyhow::Result<Cached> {
    let mut files = Vec::new();
    walk(&model.folder, DEPTH, &mut files)?;
    // An archive may be gone; what was unpacked from it loads all the same.
    let there = |origin: &&String| origin.starts_with("s3://") || Path::new(origin).exists();
    let source = model.origins.iter().rfind(there).cloned();
    let source = source.unwrap_or_else(|| model.folder.to_string_lossy().into_owned());
    Ok(Cached {
        source,
        from: match model.from {
            KeptFrom::Archive => "archive",
            KeptFrom::S3 => "S3",
        },
        outline: outlined(&Source::Folder(model.folder.clone()), options),
        origins: model.origins,
        refs: Vec::new(),
        commit: None,
        path: model.folder,
        bytes: files.iter().map(|(_, bytes)| bytes).sum(),
        unfinished: false,
    })
}
