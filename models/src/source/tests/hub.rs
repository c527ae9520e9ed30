//! Repositories from a stand-in for the hub.

use super::stub::{Answer, Asked, Gate, Stub};
use super::{found, names};
use crate::source::hub::{Repository, fetch};
use crate::source::transfer::Pace;
use crate::source::{digest, hex};
use crate::{FetchOptions, HubOptions, LoadError, LoadOptions, Secret, Source, load};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_very_secret";
const PACE: Pace = Pace {
    pause: Duration::from_millis(1),
    part: 1000,
    silence: Duration::from_mins(1),
};

type Files = BTreeMap<String, Vec<u8>>;
/// What is answered instead, if anything.
type Instead = Arc<dyn Fn(&Asked) -> Option<Answer> + Send + Sync>;

/// What is answered now; others may ask while it is made up.
fn now(instead: &Mutex<Instead>) -> Instead {
    Arc::clone(&instead.lock().unwrap())
}

/// Names that the stand-in says are large files, which lie on another server.
fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf"]
        .iter()
        .any(|end| name.ends_with(end))
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// What git calls contents.
fn git_hash(bytes: &[u8]) -> String {
    let head = format!("blob {}\0", bytes.len());
    hex(&Sha1::digest([head.as_bytes(), bytes].concat()))
}

/// The hub and the server of its large files. `instead` may answer for both.
struct Hub {
    own: Stub,
    large: Stub,
    instead: Arc<Mutex<Instead>>,
}

impl Hub {
    fn of(files: Files) -> Self {
        let instead: Arc<Mutex<Instead>> = Arc::new(Mutex::new(Arc::new(|_| None)));
        let files = Arc::new(files);
        let (other, stored) = (Arc::clone(&instead), Arc::clone(&files));
        let large = Stub::start(move |asked| {
            let name = asked.target.trim_start_matches("/large/");
            let name = name.split('?').next().unwrap();
            let own = || Answer::of(asked, &stored[name]);
            now(&other)(asked).unwrap_or_else(own)
        });
        let other = Arc::clone(&instead);
        let elsewhere = large.url.clone();
        let own = Stub::start(move |asked| {
            let usual = || answer(asked, &files, &elsewhere);
            now(&other)(asked).unwrap_or_else(usual)
        });
        Self {
            own,
            large,
            instead,
        }
    }

    fn instead(&self, answer: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) {
        *self.instead.lock().unwrap() = Arc::new(answer);
    }

    fn options(&self, home: &Path) -> LoadOptions {
        LoadOptions {
            fetch: FetchOptions {
                data_dir: Some(home.join("data")),
                hub: HubOptions {
                    cache: Some(home.join("hub")),
                    endpoint: Some(self.own.url.clone()),
                    token: Some(Secret::new(TOKEN)),
                    offline: false,
                },
                ..FetchOptions::default()
            },
            ..LoadOptions::default()
        }
    }
}

/// What the hub answers, as its public documentation has it.
fn answer(asked: &Asked, files: &Files, elsewhere: &str) -> Answer {
    if asked.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return Answer::new(401, "{\"error\":\"Invalid credentials\"}");
    }
    if let Some(revision) = asked
        .target
        .strip_prefix("/api/models/owner/tiny/revision/")
    {
        if !["main", COMMIT, "refs%2Fpr%2F1"].contains(&revision) {
            return Answer::new(404, "{\"error\":\"Invalid rev id\"}")
                .with("X-Error-Code", "RevisionNotFound");
        }
        let siblings: Vec<_> = files
            .keys()
            .map(|name| serde_json::json!({"rfilename": name}))
            .collect();
        let info = serde_json::json!({"_id": "1", "id": "owner/tiny", "sha": COMMIT, "siblings": siblings});
        return Answer::new(200, info.to_string()).with("Content-Type", "application/json");
    }
    let prefix = format!("/owner/tiny/resolve/{COMMIT}/");
    let Some((name, contents)) = asked
        .target
        .strip_prefix(&prefix)
        .and_then(|name| files.get_key_value(name))
    else {
        return Answer::new(404, "{\"error\":\"Repository not found\"}")
            .with("X-Error-Code", "RepoNotFound");
    };
    let hash = sha256(contents);
    if is_large(name) {
        return Answer::new(302, "")
            .with(
                "Location",
                &format!("{elsewhere}/large/{name}?signature=also_secret"),
            )
            .with("X-Linked-Etag", &format!("\"{hash}\""))
            .with("X-Linked-Size", &contents.len().to_string());
    }
    Answer::of(asked, contents).with("ETag", &format!("\"{}\"", git_hash(contents)))
}

fn repository(file: Option<&str>) -> Repository<'_> {
    Repository {
        repo: "owner/tiny",
        revision: "main",
        file,
    }
}

fn message(result: Result<crate::source::Found, LoadError>) -> String {
    let message = result.unwrap_err().to_string();
    assert!(!message.contains("secret"), "{message}");
    message
}

/// The files of a golden folder, and some that nobody needs.
fn classifier() -> Files {
    let folder = golden();
    let mut files = super::files(&folder);
    for (name, text) in [
        ("README.md", "read me"),
        ("pytorch_model.bin", "pickle"),
        ("onnx/model.onnx", "other"),
        ("onnx/config.json", "other"),
        ("tf_model.h5", "other"),
    ] {
        files.insert(name.to_owned(), text.into());
    }
    files
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/bert_classify/model")
}

#[test]
fn a_repository_loads_and_lies_in_the_cache_as_other_tools_expect() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::of(classifier());
    let options = hub.options(home.path());
    let source = Source::parse("owner/tiny").unwrap();
    let loaded = load(&source, &options).unwrap();
    let here = load(&Source::Folder(golden()), &options).unwrap();
    assert_eq!(loaded.identity.weights_hash, here.identity.weights_hash);

    let place = home.path().join("hub/models--owner--tiny");
    let snapshot = place.join("snapshots").join(COMMIT);
    let mut needed = names(&golden());
    needed.retain(|name| name != "vocab.txt");
    assert_eq!(names(&snapshot), needed, "only what is needed");
    assert_eq!(
        std::fs::read_to_string(place.join("refs/main")).unwrap(),
        COMMIT
    );
    for name in names(&snapshot) {
        let target = std::fs::read_link(snapshot.join(&name)).unwrap();
        let up = "../".repeat(2 + name.matches('/').count());
        assert!(
            target.starts_with(Path::new(&up).join("blobs")),
            "{target:?}"
        );
        if is_large(&name) {
            let hash = digest(&snapshot.join(&name), Sha256::new()).unwrap();
            assert_eq!(target.file_name().unwrap().to_str(), Some(hash.as_str()));
        }
    }
    let left = names(&place.join("blobs"))
        .into_iter()
        .filter(|n| n.contains("incomplete"));
    assert_eq!(left.count(), 0);
    let elsewhere = hub.large.take();
    assert!(
        !elsewhere.is_empty(),
        "control: large files come from elsewhere"
    );
    assert!(
        elsewhere
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );

    // Again: only the commit is asked for.
    hub.own.take();
    load(&source, &options).unwrap();
    let asked: Vec<_> = hub
        .own
        .take()
        .into_iter()
        .map(|asked| asked.target)
        .collect();
    assert_eq!(asked, ["/api/models/owner/tiny/revision/main"]);
    // Offline: nothing is asked.
    let mut offline = options.clone();
    offline.fetch.hub.offline = true;
    load(&source, &offline).unwrap();
    load(
        &Source::parse(&format!("owner/tiny@{COMMIT}")).unwrap(),
        &offline,
    )
    .unwrap();
    let error = load(&Source::parse("owner/tiny@other").unwrap(), &offline);
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("not in the cache") && error.contains("HF_HUB_OFFLINE"),
        "{error}"
    );
    assert!(hub.own.take().is_empty() && hub.large.take().is_empty());
    // The hub is down: what is in the cache must do.
    hub.instead(|_| Some(Answer::new(503, "")));
    found(fetch(&repository(None), &options, PACE));
    // With a new branch there is nothing to fetch but the name of its commit.
    hub.instead(|_| None);
    hub.own.take();
    load(&Source::parse("owner/tiny@refs/pr/1").unwrap(), &options).unwrap();
    assert_eq!(hub.own.take().len(), 1);
    assert!(place.join("refs/refs/pr/1").is_file());
}

#[test]
fn one_gguf_file_of_a_repository_is_chosen_by_name_or_format() {
    let home = tempfile::tempdir().unwrap();
    let all = [
        "tiny-Q4_K_M.gguf",
        "tiny-Q8_0.gguf",
        "big/m-00001-of-00002.gguf",
        "big/m-00002-of-00002.gguf",
    ];
    let hub = Hub::of(all.map(|name| (name.to_owned(), name.into())).into());
    let options = hub.options(home.path());
    for (wanted, expected, fetched) in [
        ("q8_0", all[1], 1),
        (all[0], all[0], 1),
        ("big/m-00001-of-00002.gguf", all[2], 2),
    ] {
        hub.large.take();
        let path = found(fetch(&repository(Some(wanted)), &options, PACE));
        assert!(path.ends_with(expected), "{path:?}");
        assert_eq!(hub.large.take().len(), fetched, "{wanted}");
    }
    for (wanted, expected) in [
        (
            None,
            "holds several GGUF files (name one as SOURCE:FILE.gguf or SOURCE:FORMAT)",
        ),
        (Some("Q5_K"), "holds no GGUF file `Q5_K`; it holds"),
    ] {
        let error = message(fetch(&repository(wanted), &options, PACE));
        assert!(
            error.contains(expected) && error.contains("tiny-Q4_K_M.gguf"),
            "{error}"
        );
    }
}

#[test]
fn repositories_without_safe_weights_are_refused_before_anything_is_fetched() {
    for (names, expected) in [
        (
            vec!["config.json", "pytorch_model.bin"],
            "only as pickles (`pytorch_model.bin`)",
        ),
        (
            vec!["README.md"],
            "holds no model: no config.json, no GGUF file and no archive",
        ),
        (vec!["config.json"], "no safetensors"),
        (
            vec![
                "config.json",
                "model.safetensors",
                "2_Dense/config.json",
                "2_Dense/pytorch_model.bin",
            ],
            "weights of `2_Dense` only as a pickle",
        ),
        (
            vec!["config.json", "model.safetensors", "../../evil.json"],
            "`../../evil.json` leads out of a folder",
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let hub = Hub::of(
            names
                .iter()
                .map(|n| ((*n).to_owned(), n.as_bytes().to_vec()))
                .collect(),
        );
        let error = message(fetch(&repository(None), &hub.options(home.path()), PACE));
        assert!(
            error.starts_with("owner/tiny: ") && error.contains(expected),
            "{error}"
        );
        assert_eq!(hub.own.take().len(), 1);
    }
}

#[test]
fn refusals_of_the_hub_say_what_to_do() {
    let hub = Hub::of(classifier());
    let home = tempfile::tempdir().unwrap();
    let check = |options: &LoadOptions, revision: &str, expected: &[&str]| {
        let wanted = Repository {
            revision,
            ..repository(None)
        };
        let error = message(fetch(&wanted, options, PACE));
        for expected in expected.iter().chain(&["owner/tiny", hub.own.url.as_str()]) {
            assert!(error.contains(expected), "{error} lacks {expected}");
        }
        assert!(!home.path().join("hub/models--owner--tiny/refs").exists());
    };
    let options = hub.options(home.path());
    check(&options, "gone", &["no revision gone"]);
    let mut wrong = options.clone();
    wrong.fetch.hub.token = Some(Secret::new("hf_other_secret"));
    check(&wrong, "main", &["HF_TOKEN"]);
    hub.instead(|_| {
        Some(
            Answer::new(403, "")
                .with("X-Error-Message", "Access is restricted")
                .with("X-Error-Code", "GatedRepo"),
        )
    });
    check(&options, "main", &["gated", "Access is restricted"]);
    hub.instead(|_| Some(Answer::new(404, "").with("X-Error-Code", "RepoNotFound")));
    check(&options, "main", &["no repository owner/tiny"]);
    hub.instead(|_| Some(Answer::new(500, "")));
    check(&options, "main", &["cannot be asked", "500"]);
    // The repository opens, one of its files does not.
    hub.instead(|asked| {
        let refused = asked.target.ends_with("/model.safetensors");
        refused.then(|| Answer::new(403, "").with("X-Error-Message", "Access is restricted"))
    });
    check(
        &options,
        "main",
        &["model.safetensors: 403", "Access is restricted", "gated"],
    );
}

#[test]
fn what_breaks_off_goes_on_where_it_was() {
    let (files, weights) = small();
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::of(files);
    let options = hub.options(home.path());
    // Two failures in passing, then a connection that breaks in the middle of each part.
    let failures = Arc::new(AtomicUsize::new(0));
    let (count, whole) = (Arc::clone(&failures), weights.clone());
    hub.instead(move |asked| {
        if !asked.target.starts_with("/large/") {
            return None;
        }
        let (first, last) = asked.range()?;
        match count.fetch_add(1, SeqCst) {
            0 => Some(Answer::new(500, "")),
            1 => Some(Answer::new(429, "").with("Retry-After", "0")),
            _ if last - first > 300 => Some(Answer::of(asked, &whole).cut(300)),
            _ => None,
        }
    });
    let folder = found(fetch(&repository(None), &options, PACE));
    assert_eq!(
        std::fs::read(folder.join("model.safetensors")).unwrap(),
        weights
    );
    let mut ranges: Vec<_> = hub.large.take().iter().filter_map(Asked::range).collect();
    ranges.sort_unstable();
    ranges.dedup();
    let of_part = |part: usize| [0, 300, 600, 900].map(|at| (part * 1000 + at, part * 1000 + 999));
    // What is left after 900 bytes is short enough to come whole.
    let expected: Vec<_> = (0..5).flat_map(of_part).collect();
    assert_eq!(ranges, expected);
}

/// A small model, and the bytes of its weights.
fn small() -> (Files, Vec<u8>) {
    let weights: Vec<u8> = (0..5000_u32).map(|i| (i * i % 251) as u8).collect();
    let files = [
        ("config.json", b"{}".to_vec()),
        ("model.safetensors", weights.clone()),
    ];
    (
        files.map(|(name, bytes)| (name.to_owned(), bytes)).into(),
        weights,
    )
}

#[test]
fn another_start_asks_only_for_the_parts_that_are_missing() {
    let (files, weights) = small();
    let hub = Hub::of(files);
    let home = tempfile::tempdir().unwrap();
    let options = hub.options(home.path());
    let blobs = home.path().join("hub/models--owner--tiny/blobs");
    let journal = blobs.join(format!("{}.incomplete.parts", sha256(&weights)));
    // The last parts fail, but not before the others are there.
    let path = journal.clone();
    hub.instead(move |asked| {
        if asked.range().is_none_or(|(first, _)| first < 3000) {
            return None;
        }
        let there = |text: String| {
            ["0", "1", "2"]
                .iter()
                .all(|n| text.lines().any(|line| line == *n))
        };
        while !std::fs::read_to_string(&path).is_ok_and(there) {
            std::thread::yield_now();
        }
        Some(Answer::new(500, ""))
    });
    let error = message(fetch(&repository(None), &options, PACE));
    assert!(error.contains("model.safetensors: 500"), "{error}");
    assert!(!blobs.join(sha256(&weights)).exists() && journal.exists());
    let place = home.path().join("hub/models--owner--tiny");
    assert!(!place.join("snapshots").exists() && !place.join("refs").exists());
    hub.instead(|_| None);
    hub.large.take();
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&told);
    let mut shown = options.clone();
    shown.progress = Some(Arc::new(move |at| {
        seen.lock().unwrap().push((at.done, at.total));
    }));
    let folder = found(fetch(&repository(None), &shown, PACE));
    assert_eq!(
        std::fs::read(folder.join("model.safetensors")).unwrap(),
        weights
    );
    let mut ranges: Vec<_> = hub.large.take().iter().filter_map(Asked::range).collect();
    ranges.sort_unstable();
    assert_eq!(ranges, [(3000, 3999), (4000, 4999)]);
    let told = told.lock().unwrap();
    assert!(told[0].0 >= 3000, "{told:?}");
    // What of the small file had come before is not known.
    let last = told.last().unwrap();
    assert!(
        last.0 == last.1 && [5000, 5002].contains(&last.1),
        "{told:?}"
    );
}

#[test]
fn wrong_contents_are_refused_and_leave_nothing() {
    let weights = vec![7; 2500];
    let files: Files = [
        ("config.json", b"{}".to_vec()),
        ("model.safetensors", weights),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into();
    let hub = Hub::of(files);
    let check = |wrong: Vec<u8>, expected: &str, left: bool| {
        let home = tempfile::tempdir().unwrap();
        hub.instead(move |asked| {
            asked
                .target
                .starts_with("/large/")
                .then(|| Answer::of(asked, &wrong))
        });
        let error = message(fetch(&repository(None), &hub.options(home.path()), PACE));
        assert!(
            error.contains(expected) && error.contains("model.safetensors"),
            "{error}"
        );
        let place = home.path().join("hub/models--owner--tiny");
        let blobs = names(&place.join("blobs"));
        assert_eq!(
            blobs.iter().any(|name| name.contains("incomplete")),
            left,
            "{blobs:?}"
        );
        assert!(
            blobs
                .iter()
                .all(|name| name.len() == 40 || name.contains("incomplete")),
            "{blobs:?}"
        );
        assert!(!place.join("snapshots").exists() && !place.join("refs").exists());
    };
    check(vec![8; 2500], "its sha256 is ", false);
    check(vec![7; 2400], "has 2400 bytes, not 2500", true);
    // Control: the right contents.
    let home = tempfile::tempdir().unwrap();
    hub.instead(|_| None);
    found(fetch(&repository(None), &hub.options(home.path()), PACE));
}

#[test]
fn small_files_are_checked_by_the_name_that_git_gives_them() {
    // Known names: `git hash-object` says them.
    assert_eq!(git_hash(b"{}"), "9e26dfeeb6e641a33dae4961196235bdb965b21b");
    let check = |instead: &'static str, tag: Option<String>, expected: Option<&str>| {
        let (files, _) = small();
        let (hub, home) = (Hub::of(files), tempfile::tempdir().unwrap());
        hub.instead(move |asked| {
            let small = asked.target.ends_with("/config.json");
            let tag = tag.clone().unwrap_or_else(|| git_hash(b"{}"));
            small.then(|| Answer::of(asked, instead.as_bytes()).with("ETag", &tag))
        });
        let fetched = fetch(&repository(None), &hub.options(home.path()), PACE);
        let place = home.path().join("hub/models--owner--tiny");
        let Some(expected) = expected else {
            let folder = found(fetched);
            assert_eq!(
                std::fs::read_to_string(folder.join("config.json")).unwrap(),
                instead
            );
            return;
        };
        let error = message(fetched);
        assert!(
            error.contains(expected) && error.contains("config.json"),
            "{error}"
        );
        let left = names(&place.join("blobs"));
        assert!(
            left.iter().all(|name| name.len() == 64),
            "only the weights, which are right: {left:?}"
        );
        assert!(!place.join("snapshots").exists() && !place.join("refs").exists());
    };
    check("[]", None, Some("its git hash is "));
    check("{}", None, None);
    // Some stand-ins for the hub give the sha1 of the contents alone; others no known hash.
    check("{}", Some(hex(&Sha1::digest("{}"))), None);
    check("{}", Some("abc".to_owned()), None);
}

#[test]
fn a_hub_that_never_answers_is_given_up_for_the_cache() {
    let (files, _) = small();
    let (hub, home) = (Hub::of(files), tempfile::tempdir().unwrap());
    let options = hub.options(home.path());
    let first = found(fetch(&repository(None), &options, PACE));
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    hub.instead(move |_| {
        asked.fetch_add(1, SeqCst);
        loop {
            std::thread::park();
        }
    });
    let impatient = Pace {
        silence: Duration::from_millis(100),
        ..PACE
    };
    assert_eq!(
        found(fetch(&repository(None), &options, impatient)),
        first,
        "what is in the cache is used"
    );
    assert_eq!(count.load(SeqCst), 3);
    let empty = tempfile::tempdir().unwrap();
    let error = message(fetch(
        &repository(None),
        &hub.options(empty.path()),
        impatient,
    ));
    assert!(error.contains("the hub cannot be asked"), "{error}");
}

#[test]
fn what_is_kept_may_be_read_as_the_umask_says() {
    let (files, _) = small();
    let (hub, home) = (Hub::of(files), tempfile::tempdir().unwrap());
    let options = hub.options(home.path());
    found(fetch(&repository(None), &options, PACE));
    let place = home.path().join("hub/models--owner--tiny");
    let usual = home.path().join("usual");
    std::fs::write(&usual, "").unwrap();
    let mode = |path: &Path| {
        let found = std::fs::metadata(path).unwrap();
        std::os::unix::fs::PermissionsExt::mode(&found.permissions())
    };
    for name in names(&place) {
        assert_eq!(mode(&place.join(&name)), mode(&usual), "{name}");
    }
    // What is there and cannot be read is not missing.
    let mut offline = options.clone();
    offline.fetch.hub.offline = true;
    std::fs::write(place.join("refs/main"), [0xFF]).unwrap();
    let error = message(fetch(&repository(None), &offline, PACE));
    assert!(
        error.contains("refs/main: ") && !error.contains("not in the cache"),
        "{error}"
    );
}

#[test]
fn one_process_at_a_time_fetches_a_file() {
    let (files, weights) = small();
    let (hub, home) = (Hub::of(files), tempfile::tempdir().unwrap());
    let mut options = hub.options(home.path());
    let blobs = home.path().join("hub/models--owner--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    // Another process has begun with the weights.
    let path = blobs.join(sha256(&weights));
    let beside = |end: &str| blobs.join(format!("{}{end}", sha256(&weights)));
    std::fs::write(beside(".incomplete"), &weights).unwrap();
    let journal = std::fs::File::create(beside(".incomplete.parts")).unwrap();
    journal.lock().unwrap();
    let (send, waits) = std::sync::mpsc::channel();
    let send = Mutex::new(send);
    options.progress = Some(Arc::new(move |at| {
        // Nobody listens to what follows.
        let _ = send.lock().unwrap().send(at.done);
    }));
    let fetching = std::thread::spawn(move || fetch(&repository(None), &options, PACE));
    assert_eq!(waits.recv(), Ok(0), "it is shown that nothing is done yet");
    // It ends as we would.
    std::fs::rename(beside(".incomplete"), &path).unwrap();
    std::fs::remove_file(beside(".incomplete.parts")).unwrap();
    drop(journal);
    let folder = found(fetching.join().unwrap());
    assert_eq!(
        std::fs::read(folder.join("model.safetensors")).unwrap(),
        weights
    );
    assert!(
        hub.large.take().is_empty(),
        "what the other brought is not fetched again"
    );
    assert_eq!(names(&blobs), {
        let mut both = [sha256(&weights), git_hash(b"{}")];
        both.sort();
        both
    });
}

#[test]
fn two_fetches_at_once_share_the_work() {
    let (files, weights) = small();
    let (hub, home) = (Hub::of(files), tempfile::tempdir().unwrap());
    let options = hub.options(home.path());
    // The weights come when both have asked for the head of each file.
    let gate = Arc::new(Gate::of(4));
    let passed = Arc::clone(&gate);
    hub.instead(move |asked| {
        if asked.method == "HEAD" {
            passed.pass();
        }
        None
    });
    let both = [options.clone(), options]
        .map(|options| std::thread::spawn(move || found(fetch(&repository(None), &options, PACE))));
    for fetched in both {
        let folder = fetched.join().unwrap();
        assert_eq!(
            std::fs::read(folder.join("model.safetensors")).unwrap(),
            weights
        );
    }
    let mut ranges: Vec<_> = hub.large.take().iter().filter_map(Asked::range).collect();
    ranges.sort_unstable();
    let once: Vec<_> = (0..5)
        .map(|part| (part * 1000, part * 1000 + 999))
        .collect();
    assert_eq!(ranges, once);
}

#[test]
fn words_are_fetched_where_they_are_all_there_is_of_a_tokenizer() {
    for (also, expected) in [(None, true), (Some("tokenizer.json"), false)] {
        let (mut files, _) = small();
        let names = ["vocab.txt"].into_iter().chain(also);
        files.extend(names.map(|name| (name.to_owned(), b"words".to_vec())));
        let (hub, home) = (Hub::of(files), tempfile::tempdir().unwrap());
        let folder = found(fetch(&repository(None), &hub.options(home.path()), PACE));
        assert_eq!(folder.join("vocab.txt").is_file(), expected, "{also:?}");
    }
}
