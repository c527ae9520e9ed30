//! The binary fetches a model as the environment tells it: from stand-ins for the hub and for S3, past a proxy for what is secret.
#![cfg(all(feature = "hub", feature = "s3"))]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request: its first line without the version, and all its headers as one text in small letters.
#[derive(Debug, Clone)]
struct Asked {
    line: String,
    headers: String,
}

/// Status, headers beside the length, body.
type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

/// A server on the loopback until the process ends.
struct Stub {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || exchange(stream, &seen, &*answer));
            }
        });
        Self { url, asked }
    }

    /// The lines of all requests since the last call.
    fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn exchange(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Asked>>,
    answer: &dyn Fn(&Asked) -> Answer,
) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let line = lines.next()?.ok()?;
    let mut headers = String::new();
    for line in lines.by_ref() {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        writeln!(headers, "{}", line.to_ascii_lowercase()).ok()?;
    }
    let line = line.rsplit_once(' ')?.0.to_owned();
    let asked = Asked { line, headers };
    seen.lock().unwrap().push(asked.clone());
    let (status, headers, body) = answer(&asked);
    let length = body.len();
    let mut head =
        format!("HTTP/1.1 {status} Test\r\nConnection: close\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").ok()?;
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    if !asked.line.starts_with("HEAD ") {
        stream.write_all(&body).ok()?;
    }
    Some(())
}

/// The files of a tiny classifier.
fn model() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/bert_classify/model");
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// All of `bytes`: whole files are answers to ranges that begin at 0, too.
fn whole(bytes: &[u8]) -> Answer {
    let tag = Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |tag, byte| format!("{tag}{byte:02x}"));
    (200, vec![("ETag", format!("\"{tag}\""))], bytes.to_vec())
}

fn classify(source: &str, variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_koma"))
        .args(["run", "classify", source, "What is this?"])
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn check(output: &Output, code: i32, part: &str) {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    let text = if code == 0 { out } else { err };
    assert!(text.contains(part), "`{part}` in\n{text}");
}

#[test]
fn the_hub_is_where_the_environment_says() {
    let files = model();
    let hub = Stub::start(move |asked| {
        if !asked.headers.contains("authorization: bearer my-token\n") {
            return (401, vec![], vec![]);
        }
        if asked.line == "GET /api/models/owner/tiny/revision/main" {
            let names = files.keys().map(|name| json!({"rfilename": name}));
            let siblings: Vec<_> = names.collect();
            let info = json!({"_id": "1", "id": "owner/tiny", "sha": COMMIT, "siblings": siblings});
            let kind = ("Content-Type", "application/json".to_owned());
            return (200, vec![kind], info.to_string().into_bytes());
        }
        let name = asked.line.rsplit('/').next().unwrap();
        files
            .get(name)
            .map_or((404, vec![], vec![]), |bytes| whole(bytes))
    });
    let home = tempfile::tempdir().unwrap();
    let home = home.path().to_str().unwrap();
    let there = [
        ("HF_ENDPOINT", hub.url.as_str()),
        ("HF_TOKEN", "my-token"),
        ("HF_HOME", home),
        ("HOME", home),
    ];
    check(&classify("owner/tiny", &there), 0, "\n");
    let listings = |asked: Vec<Asked>| asked.iter().filter(|a| a.line.contains("/api/")).count();
    assert_eq!(listings(hub.take()), 1, "a source is looked for once");
    let refs = Path::new(home).join("hub/models--owner--tiny/refs/main");
    assert_eq!(std::fs::read_to_string(refs).unwrap(), COMMIT);
    // Offline nobody is asked.
    let offline = [&there[..], &[("HF_HUB_OFFLINE", "1")]].concat();
    check(&classify("owner/tiny", &offline), 0, "\n");
    assert!(hub.take().is_empty());
    // Control: without the token.
    let without = [there[0], there[2], there[3]];
    check(&classify("owner/tiny", &without), 1, "HF_TOKEN");
}

/// A bucket without pages, and without a look at signatures: those are `koma-models`' to test.
fn bucket(asked: &Asked, files: &BTreeMap<String, Vec<u8>>) -> Answer {
    if asked.line.contains("list-type=2") {
        let mut page = "<ListBucketResult>".to_owned();
        for (name, bytes) in files {
            let size = bytes.len();
            write!(
                page,
                "<Contents><Key>m/{name}</Key><ETag>\"t\"</ETag><Size>{size}</Size></Contents>"
            )
            .unwrap();
        }
        page += "<IsTruncated>false</IsTruncated></ListBucketResult>";
        return (200, vec![], page.into_bytes());
    }
    let name = asked.line.rsplit('/').next().unwrap();
    files
        .get(name)
        .map_or((404, vec![], vec![]), |bytes| whole(bytes))
}

#[test]
fn s3_is_where_the_environment_says() {
    let files = model();
    let s3 = Stub::start(move |asked| {
        let signed = asked.headers.contains("credential=akia-me/");
        let region = asked.headers.contains("/eu-north-1/s3/aws4_request");
        let session = asked.headers.contains("x-amz-security-token: my-session\n");
        if !(signed && region && session) {
            return (403, vec![], asked.headers.clone().into_bytes());
        }
        bucket(asked, &files)
    });
    let home = tempfile::tempdir().unwrap();
    let variables = [
        ("HOME", home.path().to_str().unwrap()),
        ("AWS_ENDPOINT_URL_S3", s3.url.as_str()),
        ("AWS_REGION", "eu-north-1"),
        ("AWS_ACCESS_KEY_ID", "AKIA-me"),
        ("AWS_SECRET_ACCESS_KEY", "my-secret"),
        ("AWS_SESSION_TOKEN", "my-session"),
    ];
    check(&classify("s3://models-1/m", &variables), 0, "\n");
    let asked = s3.take();
    let listings = asked.iter().filter(|a| a.line.contains("list-type"));
    assert_eq!(listings.count(), 1, "a source is looked for once");
    // Control: without the session.
    check(&classify("s3://models-1/m", &variables[..5]), 1, "403");
}

#[test]
fn no_proxy_hears_credentials() {
    let proxy = Stub::start(|_| (403, vec![], vec![]));
    let service = Stub::start(|asked| {
        let keys = json!({"AccessKeyId": "a", "SecretAccessKey": "b", "Token": "c"}).to_string();
        let text = if asked.line.ends_with("/security-credentials/") {
            "role".to_owned()
        } else {
            keys
        };
        (200, vec![], text.into_bytes())
    });
    let home = tempfile::tempdir().unwrap();
    let container = format!("{}/keys", service.url);
    for (name, address, requests) in [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container, 1),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service.url, 3),
    ] {
        let variables = [
            ("HOME", home.path().to_str().unwrap()),
            ("http_proxy", proxy.url.as_str()),
            ("AWS_ENDPOINT_URL", "http://s3.test"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "my-token"),
            (name, address.as_str()),
        ];
        check(&classify("s3://models-1/m", &variables), 1, "403");
        assert_eq!(service.take().len(), requests, "{name}");
        // Control: the bucket itself is asked by way of the proxy.
        let heard = proxy.take();
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert!(
            heard[0].line.starts_with("GET http://s3.test/models-1/?"),
            "{heard:?}"
        );
        assert!(!heard[0].headers.contains("my-token"));
    }
}
