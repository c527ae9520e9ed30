//! Models from a stand-in for S3 that checks signatures by its own reading of the rules.

use super::stub::{Answer, Asked, Gate, Stub, decoded};
use super::{FILE, found, names, packed};
use crate::source::s3::{fetch, on_aws};
use crate::source::transfer::Pace;
use crate::source::{Found, hex};
use crate::{
    FetchOptions, KeptFrom, LoadError, LoadOptions, OtherKind, S3Options, Secret, Source, kept,
    load,
};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KEY: &str = "AKIATEST";
const SECRET: &str = "a/secret+key";
const SESSION: &str = "session-secret";
const PACE: Pace = Pace {
    pause: Duration::from_millis(1),
    part: 1000,
    silence: Duration::from_mins(1),
};

type Objects = BTreeMap<String, Vec<u8>>;
type Instead = Arc<dyn Fn(&Asked) -> Option<Answer> + Send + Sync>;

/// What is answered now; others may ask while it is made up.
fn now(instead: &Mutex<Instead>) -> Instead {
    Arc::clone(&instead.lock().unwrap())
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex(&Md5::digest(bytes)))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    assert!(key.len() <= 64);
    let mut inner: Vec<u8> = key.iter().map(|b| b ^ 0x36).collect();
    inner.resize(64, 0x36);
    inner.extend(text.as_bytes());
    let mut outer: Vec<u8> = key.iter().map(|b| b ^ 0x5c).collect();
    outer.resize(64, 0x5c);
    outer.extend(Sha256::digest(&inner));
    Sha256::digest(&outer).to_vec()
}

/// Whether the request is signed for `region` with the key above.
fn signed(asked: &Asked, region: &str) -> Option<()> {
    let text = asked
        .header("authorization")?
        .strip_prefix("AWS4-HMAC-SHA256 ")?;
    let fields: BTreeMap<&str, &str> = text.split(", ").filter_map(|f| f.split_once('=')).collect();
    let (key, scope) = fields.get("Credential")?.split_once('/')?;
    let time = asked.header("x-amz-date")?;
    let mut headers = String::new();
    for name in fields.get("SignedHeaders")?.split(';') {
        writeln!(headers, "{name}:{}", asked.header(name)?).ok()?;
    }
    // What must not be changed on the way.
    for name in [
        "host:",
        "x-amz-date:",
        "x-amz-content-sha256:",
        "x-amz-security-token:",
    ] {
        headers.contains(name).then_some(())?;
    }
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    let mut query: Vec<&str> = query.split('&').collect();
    query.sort_unstable();
    let request = [
        asked.method.as_str(),
        path,
        &query.join("&"),
        &headers,
        fields["SignedHeaders"],
        asked.header("x-amz-content-sha256")?,
    ];
    let hash = hex(&Sha256::digest(request.join("\n")));
    let text = ["AWS4-HMAC-SHA256", time, scope, &hash].join("\n");
    let key_of_day = mac(format!("AWS4{SECRET}").as_bytes(), &time[..8]);
    let last = mac(&mac(&mac(&key_of_day, region), "s3"), "aws4_request");
    let right = hex(&mac(&last, &text)) == fields["Signature"];
    let right = right && key == KEY && scope == format!("{}/{region}/s3/aws4_request", &time[..8]);
    (right && asked.header("x-amz-security-token") == Some(SESSION)).then_some(())
}

fn refusal(status: u16, code: &str) -> Answer {
    let body = format!(
        "<Error><Code>{code}</Code><Message>In words</Message><AWSAccessKeyId>{KEY}</AWSAccessKeyId>\
         <StringToSign>{SECRET}</StringToSign></Error>"
    );
    Answer::new(status, body)
}

/// A bucket `models-1` in the region `eu-test-1`.
struct Bucket {
    stub: Stub,
    objects: Arc<Mutex<Objects>>,
    instead: Arc<Mutex<Instead>>,
}

impl Bucket {
    fn of(objects: Objects) -> Self {
        let instead: Arc<Mutex<Instead>> = Arc::new(Mutex::new(Arc::new(|_| None)));
        let objects = Arc::new(Mutex::new(objects));
        let (other, stored) = (Arc::clone(&instead), Arc::clone(&objects));
        let stub = Stub::start(move |asked| {
            if signed(asked, "eu-test-1").is_none() {
                return refusal(403, "SignatureDoesNotMatch");
            }
            let own = || answer(asked, &stored.lock().unwrap());
            now(&other)(asked).unwrap_or_else(own)
        });
        Self {
            stub,
            objects,
            instead,
        }
    }

    fn instead(&self, answer: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) {
        *self.instead.lock().unwrap() = Arc::new(answer);
    }

    fn options(&self, home: &Path) -> LoadOptions {
        LoadOptions {
            fetch: FetchOptions {
                data_dir: Some(home.to_owned()),
                s3: S3Options {
                    region: Some("eu-test-1".to_owned()),
                    endpoint: Some(self.stub.url.clone()),
                    access_key: Some(KEY.to_owned()),
                    secret_key: Some(Secret::new(SECRET)),
                    session_token: Some(Secret::new(SESSION)),
                    ..S3Options::default()
                },
                ..FetchOptions::default()
            },
            ..LoadOptions::default()
        }
    }

    /// What was asked since the last call, without the pages of listings.
    fn fetched(&self) -> Vec<String> {
        let asked = self.stub.take().into_iter().map(|asked| asked.target);
        let mut keys: Vec<_> = asked.filter(|target| !target.contains('?')).collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

/// Two objects a page, as `ListObjectsV2` gives them.
fn answer(asked: &Asked, objects: &Objects) -> Answer {
    let Some(rest) = asked.target.strip_prefix("/models-1/") else {
        return refusal(404, "NoSuchBucket");
    };
    let Some(query) = rest.strip_prefix('?') else {
        let key = decoded(rest);
        let Some(object) = objects.get(&key) else {
            return refusal(404, "NoSuchKey");
        };
        if asked.header("if-match") != Some(&etag(object)) {
            return refusal(412, "PreconditionFailed");
        }
        return Answer::of(asked, object);
    };
    let field = |name: &str| {
        let fields = query.split('&').filter_map(|field| field.split_once('='));
        let mut found = fields.filter(|(n, _)| *n == name);
        found.next().map(|(_, value)| decoded(value))
    };
    assert_eq!(field("list-type").as_deref(), Some("2"));
    let prefix = field("prefix").unwrap();
    let from = field("continuation-token").map_or(0, |token| {
        token.trim_start_matches("page/").parse().unwrap()
    });
    let all: Vec<_> = objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .collect();
    let mut page =
        "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"x\"><Name>models-1</Name>".to_owned();
    for (key, object) in all.iter().skip(from).take(2) {
        let (key, etag) = (
            key.replace('&', "&amp;"),
            etag(object).replace('"', "&quot;"),
        );
        let size = object.len();
        write!(
            page,
            "<Contents><Key>{key}</Key><ETag>{etag}</ETag><Size>{size}</Size></Contents>"
        )
        .unwrap();
    }
    let more = from + 2 < all.len();
    write!(page, "<IsTruncated>{more}</IsTruncated>").unwrap();
    if more {
        write!(
            page,
            "<NextContinuationToken>page/{}</NextContinuationToken>",
            from + 2
        )
        .unwrap();
    }
    Answer::new(200, page + "</ListBucketResult>")
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/bert_classify/model")
}

/// A golden classifier below two prefixes, packed, and things that nobody needs.
fn objects() -> Objects {
    let files = super::files(&golden());
    let entries: Vec<_> = files
        .iter()
        .map(|(n, b)| (FILE, n.as_str(), b.as_slice()))
        .collect();
    let mut objects: Objects = [
        ("packed/model.tar.gz".to_owned(), packed(&entries)),
        ("packed/model.tar.gz.sha256".to_owned(), b"x".to_vec()),
        ("prod/intent/".to_owned(), Vec::new()),
        ("prod/intent/README.md".to_owned(), b"read me".to_vec()),
        (
            "prod/intent/pytorch_model.bin".to_owned(),
            b"pickle".to_vec(),
        ),
        ("prod/intent-2/config.json".to_owned(), b"other".to_vec()),
        ("gguf/a.gguf".to_owned(), b"one".to_vec()),
        ("gguf/b.gguf".to_owned(), b"two".to_vec()),
    ]
    .into();
    for (name, bytes) in files {
        objects.insert(format!("prod/intent/{name}"), bytes.clone());
        objects.insert(format!("odd & 100%+'漫画' name/{name}"), bytes);
    }
    objects
}

fn message(result: Result<Found, LoadError>) -> String {
    let message = result.unwrap_err().to_string();
    for hidden in [SECRET, SESSION, "Signature="] {
        assert!(!message.contains(hidden), "{message}");
    }
    message
}

#[test]
fn a_prefix_loads_and_is_kept_by_tag() {
    let home = tempfile::tempdir().unwrap();
    let bucket = Bucket::of(objects());
    let options = bucket.options(home.path());
    let source = Source::parse("s3://models-1/prod/intent").unwrap();
    assert_eq!(source.stem(), "intent");
    let loaded = load(&source, &options).unwrap();
    let here = load(&Source::Folder(golden()), &options).unwrap().identity;
    assert_eq!(loaded.identity.weights_hash, here.weights_hash);
    let asked = bucket.stub.take();
    let pages = asked
        .iter()
        .filter(|asked| asked.target.contains("list-type"))
        .count();
    assert!(pages > 2, "{pages} pages");
    let needed = names(&golden())
        .into_iter()
        .filter(|name| name != "vocab.txt");
    let mut keys: Vec<_> = asked
        .iter()
        .filter(|a| !a.target.contains('?'))
        .map(|a| a.target.clone())
        .collect();
    keys.sort();
    let expected: Vec<_> = needed
        .map(|name| format!("/models-1/prod/intent/{name}"))
        .collect();
    assert_eq!(keys, expected);

    // Again: nothing comes. With one object changed: that one.
    load(&source, &options).unwrap();
    assert!(bucket.fetched().is_empty());
    let changed = "prod/intent/special_tokens_map.json";
    bucket
        .objects
        .lock()
        .unwrap()
        .get_mut(changed)
        .unwrap()
        .push(b' ');
    load(&source, &options).unwrap();
    assert_eq!(bucket.fetched(), [format!("/models-1/{changed}")]);
    // Names that must be encoded.
    let odd = Source::parse("s3://models-1/odd & 100%+'漫画' name").unwrap();
    let odd = load(&odd, &options).unwrap().identity;
    assert_eq!(odd.weights_hash, here.weights_hash);
    assert!(bucket.fetched().iter().all(|target| {
        target.starts_with("/models-1/odd%20%26%20100%25%2B%27%E6%BC%AB%E7%94%BB%27%20name/")
    }));
}

#[test]
fn one_object_can_be_the_model() {
    let home = tempfile::tempdir().unwrap();
    let bucket = Bucket::of(objects());
    let options = bucket.options(home.path());
    let source = Source::parse("s3://models-1/packed/model.tar.gz").unwrap();
    let loaded = load(&source, &options).unwrap().identity;
    let here = load(&Source::Folder(golden()), &options).unwrap().identity;
    assert_eq!(
        (source.stem().as_str(), loaded.weights_hash),
        ("model", here.weights_hash)
    );
    let path = found(fetch("models-1", "gguf/b.gguf", &options, PACE));
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    let expected = ["/models-1/gguf/b.gguf", "/models-1/packed/model.tar.gz"];
    assert_eq!(bucket.fetched(), expected);

    // What is kept: the file and what was unpacked, by their addresses; the archive is no model.
    let kept = kept(home.path()).unwrap();
    let mut models: Vec<_> = kept
        .models
        .iter()
        .map(|model| (model.from, model.origins.join(" ")))
        .collect();
    models.sort_by(|a, b| a.1.cmp(&b.1));
    let file = (KeptFrom::S3, "s3://models-1/gguf/b.gguf".to_owned());
    let unpacked = "s3://models-1/packed/model.tar.gz".to_owned();
    assert_eq!(models, [file, (KeptFrom::Archive, unpacked)]);
    let [other] = kept.others.as_slice() else {
        panic!("{:?}", kept.others)
    };
    assert_eq!(other.what, OtherKind::Packed);
    assert!(other.path.ends_with("model.tar.gz"));
}

#[test]
fn a_download_that_broke_off_is_no_model() {
    let bucket = Bucket::of(objects());
    let home = tempfile::tempdir().unwrap();
    bucket.instead(|asked| {
        asked
            .target
            .ends_with("model.safetensors")
            .then(|| refusal(412, "PreconditionFailed"))
    });
    let options = bucket.options(home.path());
    message(fetch("models-1", "prod/intent", &options, PACE));
    let broken = kept(home.path()).unwrap();
    assert_eq!(broken.models, []);
    let downloads = broken
        .others
        .iter()
        .filter(|o| o.what == OtherKind::Download);
    assert!(downloads.count() > 0, "{:?}", broken.others);
    // Control: once it is all there, it is a model, with nothing beside it.
    bucket.instead(|_| None);
    fetch("models-1", "prod/intent", &options, PACE).unwrap();
    let whole = kept(home.path()).unwrap();
    assert_eq!(whole.others, []);
    assert_eq!(whole.models[0].origins, ["s3://models-1/prod/intent"]);
}

#[test]
fn refusals_name_the_address_and_no_secret() {
    let bucket = Bucket::of(objects());
    let home = tempfile::tempdir().unwrap();
    let options = bucket.options(home.path());
    let check = |options: &LoadOptions, name: &str, expected: &[&str]| {
        let (bucket_name, prefix) = name.split_once('/').unwrap();
        let error = message(fetch(bucket_name, prefix, options, PACE));
        assert!(error.starts_with(&format!("s3://{name}: ")), "{error}");
        for expected in expected {
            assert!(error.contains(expected), "{error} lacks {expected}");
        }
    };
    let address = format!("{}/models-1/", bucket.stub.url);
    check(
        &options,
        "models-1/none",
        &[&address, "holds no object by this name"],
    );
    check(
        &options,
        "models-1/packed/x.tar.gz",
        &["holds no object by this name"],
    );
    check(
        &options,
        "models-1/gguf",
        &["holds several GGUF files", "a.gguf, b.gguf"],
    );
    check(
        &options,
        "other-1/x",
        &["404", "NoSuchBucket: In words", "there is no such bucket"],
    );
    let mut wrong = options.clone();
    wrong.fetch.s3.secret_key = Some(Secret::new("another"));
    check(&wrong, "models-1/prod", &["403", "SignatureDoesNotMatch"]);
    wrong.fetch.s3.secret_key = None;
    check(&wrong, "models-1/prod", &["only one is set"]);
    wrong.fetch.s3.access_key = None;
    check(&wrong, "models-1/prod", &["no AWS credentials"]);
    bucket.instead(|_| Some(refusal(403, "AccessDenied")));
    check(
        &options,
        "models-1/prod/intent",
        &["403", "AccessDenied", "s3:ListBucket"],
    );
    bucket.instead(|asked| {
        asked
            .target
            .ends_with("model.safetensors")
            .then(|| refusal(412, "PreconditionFailed"))
    });
    check(
        &options,
        "models-1/prod/intent",
        &["model.safetensors: 412", "PreconditionFailed"],
    );
    bucket.instead(|_| Some(refusal(503, "SlowDown")));
    bucket.stub.take();
    check(&options, "models-1/prod/intent", &["503", "SlowDown"]);
    // Requests that were given up above may still come in.
    let listings = bucket.stub.take();
    let listings = listings
        .iter()
        .filter(|asked| asked.target.contains("list-type"));
    assert_eq!(listings.count(), 5, "asked again, and not for ever");
    bucket.instead(|_| Some(Answer::new(200, "<html>")));
    check(
        &options,
        "models-1/prod/intent",
        &[&address, "is no listing"],
    );
    assert!(!home.path().join("s3/models").exists());
}

#[test]
fn slow_servers_and_broken_connections_are_asked_again() {
    let weights: Vec<u8> = (0..4500_u32).map(|i| (i * 7 % 251) as u8).collect();
    let bucket = Bucket::of([("m/a.gguf".to_owned(), weights.clone())].into());
    let home = tempfile::tempdir().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let (seen, whole) = (Arc::clone(&count), weights.clone());
    bucket.instead(move |asked| match seen.fetch_add(1, SeqCst) {
        0 | 2 => Some(refusal(503, "SlowDown").with("Retry-After", "0")),
        _ => {
            let (first, last) = asked.range()?;
            (last - first > 500).then(|| Answer::of(asked, &whole).cut(499))
        }
    });
    let path = found(fetch("models-1", "m", &bucket.options(home.path()), PACE));
    assert_eq!(std::fs::read(path).unwrap(), weights);
    let asked = bucket.stub.take();
    let mut ranges: Vec<_> = asked.iter().filter_map(Asked::range).collect();
    ranges.sort_unstable();
    ranges.dedup();
    let whole = (0..4).flat_map(|part| [0, 499].map(|at| (part * 1000 + at, part * 1000 + 999)));
    let expected: Vec<_> = whole.chain([(4000, 4499)]).collect();
    // Of 1000 bytes 499 come; the 501 that are left, and 500, come whole.
    assert_eq!(ranges, expected);
}

#[test]
fn buckets_of_another_region_are_asked_there() {
    let home = tempfile::tempdir().unwrap();
    let bucket = Bucket::of(objects());
    // The stand-in refuses what is signed for another region; before it does, it says where the bucket is.
    let stub = {
        let objects = objects();
        Stub::start(move |asked| match signed(asked, "eu-test-1") {
            Some(()) => answer(asked, &objects),
            None => refusal(400, "AuthorizationHeaderMalformed")
                .with("x-amz-bucket-region", "eu-test-1"),
        })
    };
    let mut options = bucket.options(home.path());
    options.fetch.s3.endpoint = Some(stub.url.clone());
    options.fetch.s3.region = None;
    let source = Source::parse("s3://models-1/prod/intent/").unwrap();
    load(&source, &options).unwrap();
}

/// The services of a container and of a machine.
fn services() -> Stub {
    Stub::start(|asked| {
        let keys = serde_json::json!({"Code": "Success", "AccessKeyId": KEY, "SecretAccessKey": SECRET, "Token": SESSION});
        let keys = keys.to_string();
        let shown = asked.header("x-aws-ec2-metadata-token") == Some("machine");
        match (asked.method.as_str(), asked.target.as_str()) {
            ("GET", "/v2/credentials/1") if asked.header("authorization") == Some("container") => {
                Answer::new(200, keys)
            }
            ("PUT", "/latest/api/token")
                if asked
                    .header("x-aws-ec2-metadata-token-ttl-seconds")
                    .is_some() =>
            {
                Answer::new(200, "machine")
            }
            ("GET", "/latest/meta-data/iam/security-credentials/") if shown => {
                Answer::new(200, "role\n")
            }
            ("GET", "/latest/meta-data/iam/security-credentials/role") if shown => {
                Answer::new(200, keys)
            }
            _ => Answer::new(401, "no"),
        }
    })
}

/// Fetches with options that have no keys, but what `change` gives them.
fn without_keys(
    bucket: &Bucket,
    home: &Path,
    change: &dyn Fn(&mut S3Options),
) -> Result<Found, LoadError> {
    let mut options = bucket.options(home);
    let s3 = &mut options.fetch.s3;
    (s3.access_key, s3.secret_key, s3.session_token) = (None, None, None);
    change(s3);
    fetch("models-1", "prod/intent", &options, PACE)
}

#[test]
fn credentials_come_from_the_container_or_the_machine() {
    let (bucket, service) = (Bucket::of(objects()), services());
    let home = tempfile::tempdir().unwrap();
    let with = |change: &dyn Fn(&mut S3Options)| without_keys(&bucket, home.path(), change);
    let container = format!("{}/v2/credentials/1", service.url);
    found(with(&|s3| {
        s3.container = Some(container.clone());
        s3.container_token = Some(Secret::new("container\n"));
    }));
    assert_eq!(service.take().len(), 1);
    found(with(&|s3| s3.instance = Some(service.url.clone())));
    assert_eq!(service.take().len(), 3);
    // Controls.
    let error = message(with(&|s3| s3.container = Some(container.clone())));
    assert!(error.contains("/v2/credentials/1: 401"), "{error}");
    let error = message(with(&|s3| {
        s3.instance = Some(format!("{}/other", service.url));
    }));
    assert!(
        error.contains("no AWS credentials in the environment") && error.contains("401"),
        "{error}"
    );
    for far in [
        "http://example.com/x",
        "http://10.0.0.1/x",
        "ftp://127.0.0.2.example/x",
    ] {
        let error = message(with(&|s3| s3.container = Some(far.to_owned())));
        assert!(
            error.contains("neither https nor an address of this machine"),
            "{error}"
        );
    }
}

#[test]
fn parts_are_read_side_by_side() {
    let weights: Vec<u8> = (0..8000_u32).map(|i| (i * 7 % 251) as u8).collect();
    let bucket = Bucket::of([("m/a.gguf".to_owned(), weights.clone())].into());
    let home = tempfile::tempdir().unwrap();
    let gate = Gate::of(8);
    // Nobody is answered until all are there.
    bucket.instead(move |asked| {
        asked.range()?;
        (!gate.pass()).then(|| refusal(400, "Alone"))
    });
    let path = found(fetch("models-1", "m", &bucket.options(home.path()), PACE));
    assert_eq!(std::fs::read(path).unwrap(), weights);
}

#[test]
fn contents_are_checked_where_the_tag_is_their_hash() {
    // `refused`: what is said; none if the contents are taken.
    let check =
        |name: &str, header: Option<(&'static str, &'static str)>, refused: Option<&str>| {
            let bucket = Bucket::of([("m/a.gguf".to_owned(), b"right".to_vec())].into());
            bucket.instead(move |asked| {
                asked.range()?;
                let answer = Answer::of(asked, b"wrong");
                Some(match header {
                    Some((name, value)) => answer.with(name, value),
                    None => answer,
                })
            });
            let home = tempfile::tempdir().unwrap();
            let fetched = fetch("models-1", "m", &bucket.options(home.path()), PACE);
            let Some(expected) = refused else {
                assert_eq!(std::fs::read(found(fetched)).unwrap(), b"wrong", "{name}");
                return;
            };
            let error = message(fetched);
            assert!(error.contains(expected), "{name}: {error}");
            assert!(names(home.path()).is_empty(), "{:?}", names(home.path()));
        };
    let wrong = Some("m/a.gguf: its md5 is 2bda2998d9b0ee197da142a0447f6725, not ");
    let kind = "x-amz-server-side-encryption";
    check("plain", None, wrong);
    check("keys of S3", Some((kind, "AES256")), wrong);
    // The tag is of something else there, and only the length can be checked.
    check("keys of KMS", Some((kind, "aws:kms")), None);
    let own = "x-amz-server-side-encryption-customer-algorithm";
    check("keys of the customer", Some((own, "AES256")), None);
}

#[test]
fn a_part_of_a_split_file_stands_for_all_of_them() {
    let home = tempfile::tempdir().unwrap();
    let parts = [1, 2, 3].map(|n| format!("q/m-0000{n}-of-00003.gguf"));
    let others = ["q/m-00001-of-00002.gguf", "q/m.gguf", "q/m-mmproj.gguf"];
    let all = parts.iter().map(String::as_str).chain(others);
    let objects: Objects = all.map(|name| (name.to_owned(), name.into())).collect();
    let bucket = Bucket::of(objects);
    let options = bucket.options(home.path());
    for part in &parts {
        let source = Source::parse(&format!("s3://models-1/{part}")).unwrap();
        assert_eq!(source.stem(), "m");
        let path = found(fetch("models-1", part, &options, PACE));
        assert!(path.ends_with("m-00001-of-00003.gguf"), "{path:?}");
        let beside = names(path.parent().unwrap());
        assert_eq!(beside, parts.each_ref().map(|name| &name[2..]));
    }
    let whole = found(fetch("models-1", others[1], &options, PACE));
    assert_eq!(names(whole.parent().unwrap()), ["m.gguf"]);
}

#[test]
fn a_bucket_moves_once() {
    let stub = Stub::start(|asked| {
        let here = |region: &str| asked.header("authorization").unwrap().contains(region);
        let other = if here("/a/s3/") { "b" } else { "a" };
        refusal(400, "AuthorizationHeaderMalformed").with("x-amz-bucket-region", other)
    });
    let home = tempfile::tempdir().unwrap();
    let mut options = Bucket::of(Objects::new()).options(home.path());
    options.fetch.s3.endpoint = Some(stub.url.clone());
    options.fetch.s3.region = Some("a".to_owned());
    let error = message(fetch("models-1", "x", &options, PACE));
    assert!(error.contains("AuthorizationHeaderMalformed"), "{error}");
    assert_eq!(stub.take().len(), 2);
}

#[test]
fn addresses_of_aws_depend_on_bucket_and_region() {
    for (bucket, region, expected) in [
        (
            "b-1",
            "eu-west-1",
            "https://b-1.s3.eu-west-1.amazonaws.com/",
        ),
        (
            "b.1",
            "eu-west-1",
            "https://s3.eu-west-1.amazonaws.com/b.1/",
        ),
        (
            "b-1",
            "cn-north-1",
            "https://b-1.s3.cn-north-1.amazonaws.com.cn/",
        ),
        (
            "b.1",
            "cn-north-1",
            "https://s3.cn-north-1.amazonaws.com.cn/b.1/",
        ),
    ] {
        assert_eq!(on_aws(bucket, region), expected);
    }
}

#[test]
fn a_machine_without_credentials_says_so_soon() {
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    let service = Stub::start(move |_| {
        asked.fetch_add(1, SeqCst);
        loop {
            std::thread::park();
        }
    });
    let home = tempfile::tempdir().unwrap();
    let mut options = Bucket::of(objects()).options(home.path());
    let s3 = &mut options.fetch.s3;
    (s3.access_key, s3.secret_key, s3.session_token) = (None, None, None);
    s3.instance = Some(service.url.clone());
    let impatient = Pace {
        silence: Duration::from_secs(1),
        ..PACE
    };
    let error = message(fetch("models-1", "prod/intent", &options, impatient));
    assert!(error.contains("the machine has none"), "{error}");
    assert_eq!(count.load(SeqCst), 2);
}

#[test]
fn a_token_file_is_read_each_time_and_other_roles_are_not_taken_for_ours() {
    let (bucket, service) = (Bucket::of(objects()), services());
    let home = tempfile::tempdir().unwrap();
    let with = |change: &dyn Fn(&mut S3Options)| without_keys(&bucket, home.path(), change);
    let container = format!("{}/v2/credentials/1", service.url);
    let file = home.path().join("token");
    let by_file = || {
        with(&|s3| {
            s3.container = Some(container.clone());
            s3.container_token = Some(Secret::new("old"));
            s3.container_token_file = Some(file.clone());
        })
    };
    let error = message(by_file());
    assert!(
        error.contains("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: ") && error.contains("token: "),
        "{error}"
    );
    std::fs::write(&file, "container\n").unwrap();
    found(by_file());
    // A role that we do not take is not another one.
    let error = message(with(&|s3| {
        s3.instance = Some(service.url.clone());
        s3.web_identity = Some("/var/run/token".into());
    }));
    assert!(
        error.contains("AWS_WEB_IDENTITY_TOKEN_FILE (/var/run/token)"),
        "{error}"
    );
}
