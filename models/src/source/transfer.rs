//! Files over HTTP: in parts side by side, resumed where they broke off, checked before they get their names.
//!
//! Owns: ranges, retries, the partial file and its journal. Must not know: whose server it is; a [`Sign`] puts the headers on.
//!
//! Invariant: a file stands under its own name only with its whole length and, where a hash is known, the right contents.
//! Messages name the address without its query and no header.

use super::kept::INCOMPLETE;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::header::{CONTENT_RANGE, HeaderMap, IF_MATCH, RANGE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Parts under way at once.
const PARALLEL: usize = 8;
/// How often a part may fail without getting further.
const ATTEMPTS: u32 = 5;
/// A server may ask for a pause up to this.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read to say why it failed.
const MAX_REASON: usize = 4096;

/// Headers for a GET of an address.
pub(super) type Sign<'a> = &'a (dyn Fn(&Url) -> HeaderMap + Sync);
/// Told the bytes done and to do.
pub(super) type Told<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// A file to fetch.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) url: Url,
    /// Its own name.
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// Hexadecimal sha256, if the server told.
    pub(super) sha256: Option<String>,
    /// What its contents go by on the server; sent as a condition.
    pub(super) etag: Option<String>,
}

/// Whether another attempt may mend it.
#[derive(Clone, Copy)]
enum Again {
    Never,
    Soon,
    /// The server named a pause.
    After(Duration),
}

/// Why something was not fetched.
pub(super) struct Failure {
    again: Again,
    /// The status, if there was an answer.
    pub(super) status: Option<StatusCode>,
    #[cfg_attr(
        not(feature = "s3"),
        expect(dead_code, reason = "only buckets say something there")
    )]
    pub(super) headers: Box<HeaderMap>,
    /// With the address.
    pub(super) reason: String,
}

/// How transfers go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The first pause before another attempt; it doubles.
    pub(super) pause: Duration,
    /// Bytes of a part.
    pub(super) part: u64,
}

impl Pace {
    /// For servers that are far away.
    pub(super) const USUAL: Self = Self {
        pause: Duration::from_millis(250),
        part: 32 << 20,
    };
}

/// See the module.
pub(super) struct Transfer {
    client: Client,
    pace: Pace,
}

impl Transfer {
    /// A client that follows redirects to other servers (without the headers of [`Sign`] that are secret), or none.
    pub(super) fn new(redirects: bool, pace: Pace) -> Result<Self, String> {
        let policy = if redirects {
            reqwest::redirect::Policy::limited(5)
        } else {
            reqwest::redirect::Policy::none()
        };
        let client = Client::builder()
            .redirect(policy)
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_mins(1))
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self { client, pace })
    }

    /// The answer to one request that `build` makes of the client, asked again as often as it is worth it. Any status that
    /// is neither a success nor a redirect is a failure.
    pub(super) async fn ask(
        &self,
        build: impl Fn(&Client) -> reqwest::RequestBuilder,
    ) -> Result<Response, Failure> {
        let mut attempts = 0;
        loop {
            let failure = match send(build(&self.client)).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            attempts += 1;
            self.rest(failure, attempts).await?;
        }
    }

    /// Waits before another attempt, or gives the failure back.
    async fn rest(&self, failure: Failure, attempts: u32) -> Result<(), Failure> {
        let pause = match failure.again {
            Again::After(pause) if attempts < ATTEMPTS => pause.min(MAX_PAUSE),
            Again::Soon if attempts < ATTEMPTS => self.pace.pause * 2_u32.pow(attempts - 1),
            _ => return Err(failure),
        };
        tracing::debug!("{}; attempt {attempts} of {ATTEMPTS}", failure.reason);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Fetches what is not there yet.
    ///
    /// # Errors
    /// The first failure; what was fetched of each file stays beside its place, to go on from.
    pub(super) async fn fetch(
        &self,
        wanted: &[Wanted],
        sign: Sign<'_>,
        told: Told<'_>,
    ) -> Result<(), Failure> {
        let there = |file: &&Wanted| {
            let length = std::fs::metadata(&file.path).map(|m| m.len());
            !length.is_ok_and(|length| length == file.size)
        };
        // Files of the same contents have the same place.
        let mut places = BTreeSet::new();
        let new = |file: &&Wanted| places.insert(file.path.clone());
        let missing: Vec<&Wanted> = wanted.iter().filter(there).filter(new).collect();
        let total = missing.iter().map(|file| file.size).sum();
        let files: Vec<Partial<'_>> = missing
            .into_iter()
            .map(|file| Partial::open(file, self.pace.part))
            .collect::<Result<_, _>>()?;
        let done = AtomicU64::new(files.iter().map(Partial::done).sum());
        let room: u64 = total - done.load(Relaxed);
        if let Some(file) = files.first() {
            check_room(&file.wanted.path, room).map_err(fatal)?;
            told(done.load(Relaxed), total);
        }
        let counted = |bytes: u64| told(done.fetch_add(bytes, Relaxed) + bytes, total);
        let parts = files
            .iter()
            .flat_map(|file| file.missing().map(move |part| (file, part)));
        stream::iter(parts)
            .map(|(file, part)| self.part(file, part, sign, &counted))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
        files.into_iter().try_for_each(Partial::finish)
    }

    /// Fetches one part, going on where it breaks off.
    async fn part(
        &self,
        file: &Partial<'_>,
        part: u64,
        sign: Sign<'_>,
        counted: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Failure> {
        let range = file.range(part);
        let mut at = range.start;
        let mut attempts = 0;
        while at < range.end {
            let before = at;
            let got = self.stretch(file, &mut at, range.end, sign).await;
            counted(at - before);
            if let Err(failure) = got {
                attempts = if at > before { 1 } else { attempts + 1 };
                self.rest(failure, attempts).await?;
            }
        }
        file.mark(part)
    }

    /// Fetches from `at` towards `end`, moving `at` with what is written.
    async fn stretch(
        &self,
        file: &Partial<'_>,
        at: &mut u64,
        end: u64,
        sign: Sign<'_>,
    ) -> Result<(), Failure> {
        let Wanted {
            url, size, etag, ..
        } = file.wanted;
        let mut request = self.client.get(url.clone()).headers(sign(url));
        request = request.header(RANGE, format!("bytes={at}-{}", end - 1));
        if let Some(etag) = etag {
            request = request.header(IF_MATCH, etag);
        }
        let mut response = send(request).await?;
        let refuse = |reason: String| fatal(format!("{}: {reason}", shown(url)));
        check_range(&response, *at, *size).map_err(refuse)?;
        loop {
            let chunk = response.chunk().await.map_err(|e| broken(url, e))?;
            let Some(chunk) = chunk else { break };
            if chunk.len() as u64 > end - *at {
                return Err(refuse("sends more than it was asked for".to_owned()));
            }
            let written = file.file.write_all_at(&chunk, *at);
            written.map_err(|e| fatal(format!("{}: {e}", file.path.display())))?;
            *at += chunk.len() as u64;
        }
        if *at < end {
            let reason = format!("{}: ended {} bytes early", shown(url), end - *at);
            return Err(Failure {
                again: Again::Soon,
                ..fatal(reason)
            });
        }
        Ok(())
    }
}

/// A file on its way, and the journal of its parts that are there.
struct Partial<'a> {
    wanted: &'a Wanted,
    path: PathBuf,
    file: File,
    part: u64,
    there: BTreeSet<u64>,
    journal: Mutex<File>,
    journal_path: PathBuf,
}

impl<'a> Partial<'a> {
    /// Goes on with what is there if it is of the same contents, else begins.
    fn open(wanted: &'a Wanted, part: u64) -> Result<Self, Failure> {
        let beside = |end: &str| {
            let mut name = wanted.path.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let (path, journal_path) = (beside(INCOMPLETE), beside(&format!("{INCOMPLETE}.parts")));
        let failed = |e: std::io::Error| fatal(format!("{}: {e}", path.display()));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let of = wanted.sha256.as_ref().or(wanted.etag.as_ref());
        let head = format!("{} {part} {}", wanted.size, of.map_or("", String::as_str));
        let written = std::fs::read_to_string(&journal_path).unwrap_or_default();
        let mut lines = written.lines();
        let resumed = path.is_file() && lines.next() == Some(&head);
        let there = if resumed {
            lines.filter_map(|line| line.parse().ok()).collect()
        } else {
            BTreeSet::new()
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(!resumed);
        let file = options.open(&path).map_err(failed)?;
        file.set_len(wanted.size).map_err(failed)?;
        let mut options = OpenOptions::new();
        if resumed {
            options.append(true);
        } else {
            options.write(true).create(true).truncate(true);
        }
        let mut journal = options.open(&journal_path).map_err(failed)?;
        if !resumed {
            writeln!(journal, "{head}").map_err(failed)?;
        }
        Ok(Self {
            wanted,
            path,
            file,
            part,
            there,
            journal: Mutex::new(journal),
            journal_path,
        })
    }

    fn parts(&self) -> u64 {
        self.wanted.size.div_ceil(self.part)
    }

    fn range(&self, part: u64) -> Range<u64> {
        let start = part * self.part;
        start..(start + self.part).min(self.wanted.size)
    }

    /// Parts that are not there, in order.
    fn missing(&self) -> impl Iterator<Item = u64> {
        (0..self.parts()).filter(|part| !self.there.contains(part))
    }

    /// Bytes that are there.
    fn done(&self) -> u64 {
        let parts = self.there.iter().filter(|part| **part < self.parts());
        parts
            .map(|part| self.range(*part))
            .map(|r| r.end - r.start)
            .sum()
    }

    /// Notes that a part is there, once it is on the disk.
    fn mark(&self, part: u64) -> Result<(), Failure> {
        let mut journal = self
            .journal
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let noted = self
            .file
            .sync_data()
            .and_then(|()| writeln!(journal, "{part}"));
        noted.map_err(|e| fatal(format!("{}: {e}", self.path.display())))
    }

    /// Checks the whole file and gives it its name.
    fn finish(self) -> Result<(), Failure> {
        let failed = |e: std::io::Error| fatal(format!("{}: {e}", self.path.display()));
        let wanted = self.wanted;
        let named = std::fs::metadata(&wanted.path).is_ok_and(|m| m.len() == wanted.size);
        if named && !self.path.exists() {
            // Another process was faster.
            return Ok(());
        }
        let (hash, size) = super::digest(&self.path).map_err(failed)?;
        let right = wanted.sha256.as_ref().is_none_or(|right| *right == hash);
        let done = if right && size == wanted.size {
            std::fs::rename(&self.path, &wanted.path).map_err(failed)
        } else {
            std::fs::remove_file(&self.path).map_err(failed)?;
            Err(fatal(format!(
                "{}: its sha256 is {hash}, not {}; what was fetched is deleted",
                shown(&wanted.url),
                wanted.sha256.as_deref().unwrap_or_default()
            )))
        };
        match std::fs::remove_file(&self.journal_path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
            _ => done,
        }
    }
}

/// Sends a request. Any status that is neither a success nor a redirect is a failure.
async fn send(request: reqwest::RequestBuilder) -> Result<Response, Failure> {
    let (client, request) = request.build_split();
    let request = request.map_err(|e| fatal(e.without_url().to_string()))?;
    let url = request.url().clone();
    let response = client.execute(request).await.map_err(|e| broken(&url, e))?;
    let status = response.status();
    if status.is_success() || status.is_redirection() {
        return Ok(response);
    }
    let headers = response.headers().clone();
    let passing = matches!(status.as_u16(), 408 | 429 | 500..);
    let seconds = headers
        .get(RETRY_AFTER)
        .and_then(|v| v.to_str().ok()?.parse().ok());
    let again = match seconds {
        _ if !passing => Again::Never,
        Some(seconds) => Again::After(Duration::from_secs(seconds)),
        None => Again::Soon,
    };
    let why = why(response).await;
    Err(Failure {
        again,
        status: Some(status),
        headers: Box::new(headers),
        reason: format!("{}: {status}{why}", shown(&url)),
    })
}

/// What a server says about a failure: `S3`'s code and message, or the hub's header.
async fn why(mut response: Response) -> String {
    if let Some(text) = response.headers().get("x-error-message") {
        return format!(": {}", String::from_utf8_lossy(text.as_bytes()));
    }
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_REASON - body.len())]);
        if body.len() == MAX_REASON {
            break;
        }
    }
    let body = String::from_utf8_lossy(&body);
    let field = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        Some(rest.split_once("</")?.0.to_owned())
    };
    let parts = ["Code", "Message"].into_iter().filter_map(field);
    parts.fold(String::new(), |text, part| format!("{text}: {part}"))
}

/// Fails unless the answer begins at `at` of a file of `size` bytes.
fn check_range(response: &Response, at: u64, size: u64) -> Result<(), String> {
    let total = if response.status() == StatusCode::PARTIAL_CONTENT {
        let range = response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|v| v.to_str().ok());
        let parsed = range.and_then(|range| {
            let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
            let start: u64 = range.split_once('-')?.0.parse().ok()?;
            Some((start, total.parse().ok()?))
        });
        match parsed {
            Some((start, total)) if start == at => Some(total),
            _ => return Err(format!("answers with the range {range:?}, not from {at}")),
        }
    } else if response.status() == StatusCode::OK && at == 0 {
        response.content_length()
    } else {
        return Err(format!("answers {} to a range", response.status()));
    };
    match total {
        Some(total) if total != size => Err(format!("has {total} bytes, not {size}")),
        _ => Ok(()),
    }
}

fn check_room(path: &Path, bytes: u64) -> Result<(), String> {
    let folder = path.parent().unwrap_or(path);
    let disk = rustix::fs::statvfs(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < bytes {
        return Err(format!(
            "{}: {bytes} bytes are to be fetched, but only {free} are free on its disk",
            folder.display()
        ));
    }
    Ok(())
}

/// A failure that another attempt does not mend.
fn fatal(reason: String) -> Failure {
    Failure {
        again: Again::Never,
        status: None,
        headers: Box::default(),
        reason,
    }
}

/// A connection that failed.
fn broken(url: &Url, error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let mut reason = format!("{}: {error}", shown(url));
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        reason = format!("{reason}: {inner}");
        source = inner.source();
    }
    Failure {
        again: Again::Soon,
        ..fatal(reason)
    }
}

/// The address without its query, which may hold a signature.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    // Addresses that cannot hold a password have none to hide.
    let _ = url.set_password(None);
    url.into()
}

impl Failure {
    /// One without an answer, that another attempt does not mend.
    pub(super) fn own(reason: String) -> Self {
        fatal(reason)
    }

    /// An answer that is not what was asked for.
    #[cfg(feature = "s3")]
    pub(super) fn answered(url: &Url, answer: &Response) -> Self {
        Self {
            status: Some(answer.status()),
            headers: Box::new(answer.headers().clone()),
            ..fatal(format!("{}: {}", shown(url), answer.status()))
        }
    }
}
