//! Names of sources; folders, archives and `MLflow` models on this machine.

#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "s3")]
mod s3;
#[cfg(any(feature = "hub", feature = "s3"))]
mod stub;

use super::archive::{Bounds, extract};
use super::{Found, Kept, KeptFrom, OtherKind, Source, fetch, kept};
use crate::{FetchOptions, LoadError, LoadOptions};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// Files below a folder, by their paths in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                found.insert(name.to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    files(folder).into_keys().collect()
}

/// Names and contents.
type Files<'a> = &'a [(&'a str, &'a str)];

fn write(folder: &Path, files: Files<'_>) {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// An entry of an archive: kind, name, contents. The name is written as it is.
type Entry<'a> = (EntryType, &'a str, &'a [u8]);

const FILE: EntryType = EntryType::Regular;

fn packed(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (kind, name, contents) in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_size(contents.len() as u64);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("config.json").unwrap();
        }
        header.set_cksum();
        tar.extend(header.as_bytes());
        tar.extend(*contents);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.extend([0; 1024]);
    gzip(&tar)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const BOUNDS: Bounds = Bounds {
    entries: 8,
    bytes: 4096,
};

/// Options with `folder` for data.
fn options(folder: &Path) -> LoadOptions {
    LoadOptions {
        fetch: FetchOptions {
            data_dir: Some(folder.to_owned()),
            ..FetchOptions::default()
        },
        ..LoadOptions::default()
    }
}

fn found(result: Result<Found, LoadError>) -> PathBuf {
    match result.unwrap() {
        Found::Folder(path) | Found::Gguf(path) => path,
    }
}

#[test]
fn archives_are_unpacked_once() {
    let home = tempfile::tempdir().unwrap();
    let archive = home.path().join("model.tar.gz");
    let long = format!("1_Pooling/{}.json", "x".repeat(80));
    let entries: &[Entry<'_>] = &[
        (EntryType::Directory, "./", b""),
        (FILE, "./config.json", b"{}"),
        (FILE, "./code/inference.py", b"import os"),
        (FILE, "./._config.json", b"mac"),
        (FILE, &long, b"{}"),
    ];
    std::fs::write(&archive, packed(entries)).unwrap();
    let data = home.path().join("data");
    let source = Source::parse(archive.to_str().unwrap()).unwrap();
    assert_eq!(source.stem(), "model");
    let folder = found(fetch(&source, &options(&data)));
    assert_eq!(names(&folder), [long, "config.json".to_owned()]);
    assert!(folder.join("code").is_dir(), "its warning needs the folder");
    let mode = std::os::unix::fs::PermissionsExt::mode;
    let permissions = std::fs::metadata(folder.join("config.json"))
        .unwrap()
        .permissions();
    assert_eq!(mode(&permissions) & 0o111, 0, "nothing is to be run");

    // The second time it is found by its contents, under whatever name.
    std::fs::write(folder.join("mark"), "").unwrap();
    let again = home.path().join("other.tgz");
    std::fs::rename(&archive, &again).unwrap();
    let source = Source::parse(again.to_str().unwrap()).unwrap();
    let second = found(fetch(&source, &options(&data)));
    assert!(second == folder && second.join("mark").is_file());
    let kept = kept(&data).unwrap();
    assert_eq!(kept.others, []);
    let [model] = kept.models.as_slice() else {
        panic!("{:?}", kept.models)
    };
    assert_eq!((&model.folder, model.from), (&folder, KeptFrom::Archive));
    let origins = [&archive, &again].map(|path| path.to_str().unwrap());
    assert_eq!(model.origins, origins);
}

#[test]
fn an_archive_is_read_again_only_if_it_was_changed() {
    let home = tempfile::tempdir().unwrap();
    let (archive, data) = (home.path().join("model.tar.gz"), home.path().join("data"));
    std::fs::write(&archive, packed(&[(FILE, "config.json", b"{}")])).unwrap();
    let source = Source::Archive(archive.clone());
    let folder = found(fetch(&source, &options(&data)));
    // What was noted is believed: here something else.
    let seen = data.join("archives/.seen");
    let [note] = names(&seen).try_into().unwrap();
    let other = "0".repeat(64);
    write(&data, &[(&format!("archives/{other}/config.json"), "{}")]);
    std::fs::write(seen.join(note), &other).unwrap();
    let again = found(fetch(&source, &options(&data)));
    assert!(again.ends_with(&other), "{again:?}");
    // A change is seen, and what was unpacked before is found by its contents.
    let same = std::fs::read(&archive).unwrap();
    std::fs::remove_file(&archive).unwrap();
    std::fs::write(&archive, [&same[..], &gzip(&[0; 512])].concat()).unwrap();
    let changed = found(fetch(&source, &options(&data)));
    assert!(changed != folder && !changed.ends_with(&other));
    assert_eq!(names(&seen).len(), 2);
    assert_eq!(kept(&data).unwrap().models.len(), 3);
}

#[test]
fn what_is_unpacked_in_part_is_no_model() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(kept(home.path()).unwrap(), Kept::default());
    write(home.path(), &[("archives/.unpacking-x/config.json", "{}")]);
    let kept = kept(home.path()).unwrap();
    assert_eq!(kept.models, []);
    let [other] = kept.others.as_slice() else {
        panic!("{:?}", kept.others)
    };
    assert!(other.path.ends_with(".unpacking-x") && other.bytes > 0);
    assert_eq!(other.what, OtherKind::Unpacking);
}

#[test]
fn a_model_without_a_note_is_kept_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    write(home.path(), &[("archives/0123/config.json", "{}")]);
    let kept = kept(home.path()).unwrap();
    assert_eq!((kept.models.len(), kept.others.len()), (1, 0));
    assert!(kept.models[0].origins.is_empty());
}

#[test]
fn folders_lead_to_their_model() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let inner = packed(&[
        (FILE, "best/config.json", b"{}"),
        (FILE, "best/code/x.py", b""),
    ]);
    let cases: [(&str, Files<'_>, &str); 6] = [
        ("plain", &[("config.json", "{}")], ""),
        (
            "nested",
            &[
                ("m/config.json", "{}"),
                (".hidden/x", ""),
                ("code/x.py", ""),
            ],
            "m",
        ),
        ("gguf", &[("README.md", ""), ("a.gguf", "")], "a.gguf"),
        (
            "two",
            &[("a/config.json", "{}"), ("b/config.json", "{}")],
            "",
        ),
        ("deep", &[("a/b/c/d/config.json", "{}")], ""),
        ("empty", &[("README.md", "")], ""),
    ];
    for (name, files, expected) in cases {
        let folder = home.path().join(name);
        write(&folder, files);
        let source = Source::Folder(folder.clone());
        let got = found(fetch(&source, &options(&data)));
        assert_eq!(got, folder.join(expected), "{name}");
    }
    // What SageMaker mounts where it does not unpack.
    let mounted = home.path().join("mounted");
    write(&mounted, &[]);
    std::fs::create_dir(&mounted).unwrap();
    std::fs::write(mounted.join("model.tar.gz"), &inner).unwrap();
    let got = found(fetch(&Source::Folder(mounted.clone()), &options(&data)));
    assert!(
        got.ends_with("best") && got.starts_with(data.join("archives")),
        "{got:?}"
    );
    let error = fetch(&Source::Folder(mounted), &LoadOptions::default()).unwrap_err();
    assert!(
        error.to_string().contains("needs a folder for data"),
        "{error}"
    );
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let outside = "../evil.json";
    let many: Vec<String> = (0..9).map(|i| format!("{i}.json")).collect();
    let many: Vec<Entry<'_>> = many.iter().map(|n| (FILE, n.as_str(), &b""[..])).collect();
    let large = vec![0; 5000];
    let longname = vec![b'a'; 2 << 20];
    let folders: Vec<String> = (0..9).map(|i| i.to_string()).collect();
    let folders = folders
        .iter()
        .map(|n| (EntryType::Directory, n.as_str(), &b""[..]));
    let folders: Vec<Entry<'_>> = folders.collect();
    let cases: [(&[Entry<'_>], &str); 13] = [
        (
            &[(FILE, outside, b"x")],
            "`../evil.json`: leads out of the folder",
        ),
        (&[(FILE, "a/../../b", b"x")], "leads out of the folder"),
        (
            &[(FILE, "/etc/evil", b"x")],
            "`/etc/evil`: leads out of the folder",
        ),
        (&[(FILE, "a\\..\\b", b"x")], "leads out of the folder"),
        (
            &[(EntryType::Symlink, "a", b"")],
            "`a`: is a Symlink; only files and folders",
        ),
        (&[(EntryType::Link, "a", b"")], "is a Link"),
        (&[(EntryType::Char, "a", b"")], "is a Char"),
        (&[(EntryType::Fifo, "a", b"")], "is a Fifo"),
        (
            &[(FILE, "a", b"1"), (FILE, "./a", b"2")],
            "`./a`: is there twice",
        ),
        (&many, "`8.json`: is one more than 8"),
        (&folders, "is one more than 8"),
        (
            &[(FILE, "big", &large)],
            "`big`: unpacks to more than 4096 bytes in all",
        ),
        (
            &[(EntryType::GNULongName, "l", &longname), (FILE, "a", b"")],
            "more than is allowed",
        ),
    ];
    for (entries, expected) in cases {
        let into = tempfile::tempdir().unwrap();
        let error = extract(&packed(entries)[..], into.path(), BOUNDS).unwrap_err();
        assert!(error.contains(expected), "{error} lacks {expected}");
        assert!(!into.path().join(outside).exists());
    }
    // As a source: the archive is named, and no folder stays.
    let home = tempfile::tempdir().unwrap();
    let archive = home.path().join("model.tar.gz");
    let data = home.path().join("data");
    let check = |bytes: &[u8], expected: &str| {
        std::fs::write(&archive, bytes).unwrap();
        let error = fetch(&Source::Archive(archive.clone()), &options(&data)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("model.tar.gz: ") && error.contains(expected),
            "{error}"
        );
        assert!(names(&data).is_empty(), "{:?}", names(&data));
        assert_eq!(std::fs::read_dir(data.join("archives")).unwrap().count(), 0);
    };
    let good = packed(&[(FILE, "config.json", &large)]);
    check(&packed(&[(FILE, outside, b"x")]), "leads out of the folder");
    check(&good[..good.len() - 20], "");
    check(b"no archive", "");
    let mut flipped = good.clone();
    let at = flipped.len() - 6;
    flipped[at] ^= 1;
    check(&flipped, "");
    // A bomb: 200 MiB of zeros, which pack a thousandfold.
    let zeros = vec![0; 200 << 20];
    check(
        &packed(&[(FILE, "model.safetensors", &zeros)]),
        "unpacks to more than",
    );
    // Control: the same archive unharmed.
    std::fs::write(&archive, &good).unwrap();
    fetch(&Source::Archive(archive.clone()), &options(&data)).unwrap();
}

const MLMODEL: &str = "\
artifact_path: model
flavors:
  python_function:
    env:
      conda: conda.yaml
    model_binary: wrong
  transformers:
    code: null
    components:
    - tokenizer
    framework: pt
    instance_type: TextClassificationPipeline
    model_binary: model
    pipeline_model_type: BertForSequenceClassification
    source_model_name: owner/name
    task: text-classification
    tokenizer_type: BertTokenizer
mlflow_version: 3.1.0
signature:
  inputs: '[{\"type\": \"string\"}]'
";

#[test]
fn mlflow_models_are_shown_as_one_folder() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model-artifact");
    let data = home.path().join("data");
    write(
        &model,
        &[
            ("MLmodel", MLMODEL),
            ("conda.yaml", ""),
            ("model/config.json", "{}"),
            ("model/model.safetensors", "weights"),
            ("components/tokenizer/tokenizer.json", "words"),
            ("components/tokenizer/config.json", "wrong"),
        ],
    );
    let source = Source::Folder(model.clone());
    let folder = found(fetch(&source, &options(&data)));
    let expected = [
        ("config.json", "{}"),
        ("model.safetensors", "weights"),
        ("tokenizer.json", "words"),
    ];
    let expected = expected.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    assert_eq!(files(&folder), expected.into());
    let link = std::fs::symlink_metadata(folder.join("model.safetensors")).unwrap();
    assert!(link.is_symlink(), "nothing is copied");
    assert_eq!(found(fetch(&source, &options(&data))), folder, "made once");

    for (from, to, expected) in [
        (
            "  transformers:",
            "  sklearn:",
            "field `flavors`: has no `transformers`",
        ),
        (
            "    model_binary: model\n",
            "",
            "were not saved; load owner/name itself",
        ),
        (
            "model_binary: model",
            "model_binary: ../x",
            "`../x` is not a folder of the model",
        ),
        (
            "model_binary: model",
            "model_binary: gone",
            "`gone` is not a folder of the model",
        ),
        (
            "    task:",
            "    peft_adaptor: peft\n    task:",
            "field `flavors.transformers.peft_adaptor`",
        ),
        (
            "mlflow_version",
            "metadata:\n  prompt_template: 'Say {prompt}'\nmlflow_version",
            "field `metadata.prompt_template`",
        ),
    ] {
        let text = MLMODEL.replace(from, to);
        assert_ne!(text, MLMODEL);
        write(&model, &[("MLmodel", &text)]);
        let error = fetch(&source, &options(&data)).unwrap_err().to_string();
        assert!(
            error.contains("MLmodel: ") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn a_text_is_a_path_first_and_a_repository_second() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.gguf");
    let other = folder.path().join("tiny.bin");
    std::fs::write(&file, "").unwrap();
    std::fs::write(&other, "").unwrap();
    let text = |p: &Path| p.to_str().unwrap().to_owned();

    assert_eq!(
        Source::parse(&text(folder.path())).unwrap(),
        Source::Folder(folder.path().to_owned())
    );
    let gguf = Source::parse(&text(&file)).unwrap();
    assert_eq!((gguf.stem().as_str(), &gguf), ("tiny", &Source::Gguf(file)));
    let part = Source::Gguf(folder.path().join("big-00001-of-00003.gguf"));
    assert_eq!(part.stem(), "big");
    let hub = Source::parse("owner/some-Model.v2@main").unwrap();
    assert_eq!(hub.stem(), "some-Model.v2");
    assert_eq!(
        hub,
        Source::Hub {
            repo: "owner/some-Model.v2".to_owned(),
            revision: Some("main".to_owned()),
            file: None
        }
    );
    for wrong in [
        "",
        "name",
        "a/b/c",
        "a/b/c:Q4",
        "a/b/c:x.gguf",
        "a/b.gguf",
        "/nowhere/model",
        "./model",
        "../x/y",
        "a/..",
        "a/b@",
        "a b/c",
        "models/missing.gguf",
        &text(&other),
    ] {
        let message = Source::parse(wrong).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{wrong}: ")), "{message}");
    }
}

/// Only in builds that leave a feature out.
#[cfg(not(all(feature = "hub", feature = "s3")))]
#[test]
fn a_source_that_is_left_out_names_its_feature() {
    let home = tempfile::tempdir().unwrap();
    for (source, feature, there) in [
        ("owner/name", "hub", cfg!(feature = "hub")),
        ("s3://bucket/prefix", "s3", cfg!(feature = "s3")),
    ] {
        if there {
            continue;
        }
        let source = Source::parse(source).unwrap();
        let error = fetch(&source, &options(home.path())).unwrap_err();
        let expected = format!("was built without the feature `{feature}`");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}
