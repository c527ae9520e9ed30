//! Files over HTTP: in parts side by side, resumed where they broke off, checked before they get their names.
//!
//! Owns: ranges, retries. Must not know: whose server it is ([`Sign`] puts the headers on), how a file becomes whole
//! ([`Partial`]).
//!
//! Invariant: messages name the address without its query and no header.

use super::partial::{Hash, Partial, is_there};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::header::{CONTENT_RANGE, HeaderMap, IF_MATCH, RANGE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Parts under way at once.
const PARALLEL: usize = 8;
/// Attempts at servers that are far away.
const ATTEMPTS: u32 = 5;
/// Attempts at services of this machine.
#[cfg(feature = "s3")]
const ATTEMPTS_NEAR: u32 = 2;
/// How long a connection may take, and silence within an answer.
const CONNECT: Duration = Duration::from_secs(10);
const READ: Duration = Duration::from_mins(1);
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
    /// Checked before it gets its name.
    pub(super) hash: Option<Hash>,
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
    /// Who says nothing for so long about what there is will not; services near by get a tenth of it.
    pub(super) silence: Duration,
}

impl Pace {
    /// For servers that are far away.
    pub(super) const USUAL: Self = Self {
        pause: Duration::from_millis(250),
        part: 32 << 20,
        silence: Duration::from_secs(10),
    };
}

/// See the module.
pub(super) struct Transfer {
    client: Client,
    pace: Pace,
    /// How often a request or a part may fail without getting further.
    attempts: u32,
}

impl Transfer {
    /// A client that follows redirects to other servers (without the headers of [`Sign`] that are secret), or none.
    pub(super) fn new(redirects: bool, pace: Pace) -> Result<Self, String> {
        let policy = if redirects {
            reqwest::redirect::Policy::limited(5)
        } else {
            reqwest::redirect::Policy::none()
        };
        let client = Client::builder().redirect(policy);
        let client = client.connect_timeout(CONNECT).read_timeout(READ);
        Self::of(client, pace, ATTEMPTS)
    }

    /// A client for services of this machine and its neighbours: what they say is secret, so no proxy hears it; few
    /// machines have them, so it does not wait long.
    #[cfg(feature = "s3")]
    pub(super) fn near(pace: Pace) -> Result<Self, String> {
        let silence = pace.silence / 10;
        let client = Client::builder().redirect(reqwest::redirect::Policy::none());
        let client = client.no_proxy();
        let client = client.connect_timeout(silence).read_timeout(silence);
        Self::of(client, pace, ATTEMPTS_NEAR)
    }

    fn of(client: reqwest::ClientBuilder, pace: Pace, attempts: u32) -> Result<Self, String> {
        let client = client.build().map_err(|e| e.to_string())?;
        Ok(Self {
            client,
            pace,
            attempts,
        })
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
            Again::After(pause) if attempts < self.attempts => pause.min(MAX_PAUSE),
            Again::Soon if attempts < self.attempts => self.pace.pause * 2_u32.pow(attempts - 1),
            _ => return Err(failure),
        };
        let all = self.attempts;
        tracing::debug!("{}; attempt {attempts} of {all}", failure.reason);
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
        // In an order that all processes keep, as each waits for those before it. Files of the same contents have the same place.
        let mut missing: Vec<&Wanted> = wanted.iter().filter(|file| !is_there(file)).collect();
        missing.sort_by(|a, b| a.path.cmp(&b.path));
        missing.dedup_by(|a, b| a.path == b.path);
        let total = missing.iter().map(|file| file.size).sum();
        let mut files = Vec::with_capacity(missing.len());
        for file in missing {
            let waits = || {
                tracing::info!("{}: another process fetches it", file.path.display());
                told(0, total);
            };
            let opened = Partial::open(file, self.pace.part, &waits).map_err(fatal)?;
            files.extend(opened);
        }
        let total = files.iter().map(|file| file.wanted.size).sum();
        let done = AtomicU64::new(files.iter().map(Partial::done).sum());
        let room = total - done.load(Relaxed);
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
        // Those that are right are kept even if one is not.
        let finish = |before: Result<(), Failure>, file: Partial<'_>| {
            let url = shown(&file.wanted.url);
            let ended = file.finish();
            before.and(ended.map_err(|reason| fatal(format!("{url}: {reason}"))))
        };
        files.into_iter().fold(Ok(()), finish)
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
        file.mark(part).map_err(fatal)
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
        file.answered(response.headers()).map_err(fatal)?;
        loop {
            let chunk = response.chunk().await.map_err(|e| broken(url, e))?;
            let Some(chunk) = chunk else { break };
            if chunk.len() as u64 > end - *at {
                return Err(refuse("sends more than it was asked for".to_owned()));
            }
            file.write(&chunk, *at).map_err(fatal)?;
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
