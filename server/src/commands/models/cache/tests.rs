use super::*;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba98";

/// A cache as the hub's programs lay it out: blobs, and links to them.
struct Cache(TempDir);

impl Cache {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Puts `from` at `name` of a snapshot.
    fn add(&self, repo: &str, commit: &str, name: &str, from: &[u8]) {
        let repo = self.0.path().join(repo);
        let blob = repo
            .join("blobs")
            .join(format!("{}-{}", commit, name.replace('/', "-")));
        let file = repo.join("snapshots").join(commit).join(name);
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&blob, from).unwrap();
        symlink(&blob, &file).unwrap();
    }

    /// Puts the demo classifier there.
    fn add_classifier(&self, repo: &str, commit: &str) -> u64 {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/intent");
        let mut sum = 0;
        for path in entries(&folder).unwrap() {
            let bytes = fs::read(&path).unwrap();
            self.add(repo, commit, &file_name(&path), &bytes);
            sum += bytes.len() as u64;
        }
        sum
    }

    fn name(&self, repo: &str, name: &str, commit: &str) {
        let path = self.0.path().join(repo).join("refs").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, commit).unwrap();
    }

    fn list(&self) -> Vec<Cached> {
        list_hub(self.0.path()).unwrap().models
    }
}

#[test]
fn a_model_is_listed_with_its_source_size_and_architecture() {
    let cache = Cache::new();
    let repo = "models--owner--some--name";
    let bytes = cache.add_classifier(repo, COMMIT);
    cache.name(repo, "main", COMMIT);
    cache.name(repo, "refs/pr/1", OTHER);
    let models = cache.list();
    let [model] = models.as_slice() else {
        panic!("{models:?}")
    };
    assert_eq!(model.problem(), None);
    assert_eq!(
        (model.source.as_str(), model.bytes),
        ("owner/some--name", bytes)
    );
    assert_eq!(model.refs, ["main"]);
    let row = model.row();
    assert_eq!(row[1..3], ["hub", "main 01234567"]);
    assert_eq!(row[3], "DistilBertForSequenceClassification");
    assert_eq!(row[6], size(bytes));
    let json = model.json();
    assert_eq!(json["commit"], COMMIT);
    assert!(json["parameters"].as_u64().is_some_and(|count| count > 0));
}

#[test]
fn a_snapshot_without_a_name_is_named_by_its_commit() {
    let cache = Cache::new();
    cache.add_classifier("models--a--b", COMMIT);
    cache.add_classifier("models--a--b", OTHER);
    cache.name("models--a--b", "v2", OTHER);
    let sources: Vec<_> = cache.list().into_iter().map(|model| model.source).collect();
    assert_eq!(sources, [format!("a/b@{COMMIT}"), "a/b@v2".to_owned()]);
}

#[test]
fn what_cannot_be_loaded_is_listed_with_the_reason() {
    let cache = Cache::new();
    cache.add(
        "models--a--broken",
        COMMIT,
        "config.json",
        b"{\"architectures\":[\"Odd\"]}",
    );
    fs::write(
        cache.0.path().join("models--a--broken/blobs/x.incomplete"),
        "",
    )
    .unwrap();
    let models = cache.list();
    let problem = models[0].problem().unwrap();
    assert!(problem.contains("`Odd` is not supported"), "{problem}");
    assert!(problem.contains("unfinished"), "{problem}");
    assert_eq!(models[0].row()[3..6], ["-", "-", "-"]);
    assert!(models[0].json()["problem"].is_string());
}

#[test]
fn gguf_files_are_models_of_their_own_and_parts_are_one() {
    let cache = Cache::new();
    let repo = "models--a--gguf";
    cache.add(repo, COMMIT, "README.md", b"read me");
    cache.add(repo, COMMIT, "one.gguf", b"12345");
    cache.add(repo, COMMIT, "big/b-00001-of-00002.gguf", b"123");
    cache.add(repo, COMMIT, "big/b-00002-of-00002.gguf", b"1234");
    let models = cache.list();
    let found: Vec<_> = models
        .iter()
        .map(|model| (file_name(&model.path), model.bytes))
        .collect();
    assert_eq!(
        found,
        [
            ("b-00001-of-00002.gguf".to_owned(), 7),
            ("one.gguf".to_owned(), 5)
        ]
    );
    assert!(
        models.iter().all(|model| model.problem().is_some()),
        "five bytes are no model"
    );
}

#[test]
fn a_folder_that_is_not_there_is_empty_and_others_are_no_models() {
    let cache = Cache::new();
    fs::create_dir_all(cache.0.path().join("datasets--a--b/snapshots/x")).unwrap();
    fs::create_dir_all(cache.0.path().join("models--a--b")).unwrap();
    assert!(cache.list().is_empty());
    assert!(
        list_hub(&cache.0.path().join("none"))
            .unwrap()
            .models
            .is_empty()
    );
    let file = cache.0.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(list_hub(&file).is_err());
}

#[test]
fn a_repository_that_is_there_in_part_is_no_model() {
    let cache = Cache::new();
    let blobs = cache.0.path().join("models--a--b/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join("x.incomplete"), [1_u8; 5000]).unwrap();
    let folder = list_hub(cache.0.path()).unwrap();
    assert!(folder.models.is_empty());
    assert_eq!(folder.others[0].what, "unfinished download");
    assert!(folder.others[0].bytes >= 5000);

    // All that an outline reads is there, but the tokenizer is not.
    cache.add_classifier("models--a--b", COMMIT);
    assert_eq!(cache.list()[0].problem(), None, "control");
    let snapshot = cache.0.path().join("models--a--b/snapshots").join(COMMIT);
    fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
    let problem = cache.list()[0].problem().unwrap();
    assert!(problem.contains("tokenizer.json is missing (a download is unfinished)"));
}

/// The demo classifier as it lies in the folder for data.
fn kept_classifier(folder: &Path) -> u64 {
    fs::create_dir_all(folder).unwrap();
    let mut sum = 0;
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/intent");
    for path in entries(&model).unwrap() {
        sum += fs::copy(&path, folder.join(file_name(&path))).unwrap();
    }
    sum
}

#[test]
fn what_was_unpacked_or_fetched_is_listed_by_where_it_came_from() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let archive = home.path().join("model.tar.gz");
    fs::write(&archive, "").unwrap();
    let archive = archive.to_str().unwrap();
    let unpacked = data.join("archives/0123456789");
    let bytes = kept_classifier(&unpacked.join("best"));
    let note = data.join("archives/0123456789.from");
    fs::write(&note, format!("/gone.tgz\n{archive}\n")).unwrap();
    kept_classifier(&data.join("s3/models/aaaabbbbcccc"));
    fs::write(data.join("s3/models/aaaabbbbcccc.from"), "s3://bucket/m\n").unwrap();
    fs::create_dir_all(data.join("archives/.unpacking-1")).unwrap();
    fs::create_dir_all(data.join("s3/blobs")).unwrap();
    for name in ["x", "y"] {
        let path = data
            .join("s3/blobs")
            .join(name)
            .with_extension("incomplete");
        fs::write(path, [1_u8; 5000]).unwrap();
    }

    let folder = list_data(&data).unwrap();
    let rows: Vec<_> = folder.models.iter().map(Cached::row).collect();
    let name = "DistilBertForSequenceClassification";
    let [ours, theirs] = rows.as_slice() else {
        panic!("{rows:?}")
    };
    assert_eq!(ours[..4], [archive, "archive", "01234567", name]);
    assert_eq!(ours[6], size(bytes));
    assert_eq!(theirs[..4], ["s3://bucket/m", "S3", "aaaabbbb", name]);
    let remarks = folder.remarks().join("\n");
    assert!(
        remarks.contains("1 x archive unpacked in part"),
        "{remarks}"
    );
    assert!(
        remarks.contains("2 x unfinished download, 0.0 MiB"),
        "{remarks}"
    );
    let json = folder.json();
    assert_eq!(json["models"][0]["origins"], json!(["/gone.tgz", archive]));
    assert_eq!(json["models"][0]["commit"], Value::Null);
    assert_eq!(json["others"].as_array().unwrap().len(), 3);

    // Without the archive, or a note, the folder itself is the source.
    for gone in [Path::new(archive), &note] {
        fs::remove_file(gone).unwrap();
        let folder = list_data(&data).unwrap();
        let sources: Vec<_> = folder.models.iter().map(|m| m.source.as_str()).collect();
        assert!(sources.contains(&unpacked.to_str().unwrap()), "{sources:?}");
    }
}
