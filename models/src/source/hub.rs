//! Repositories of the Hugging Face hub, in the cache that its own tools use.
//!
//! Owns: revisions, the layout of the cache (`refs`, `blobs`, `snapshots`), what the hub's refusals mean. Must not know: how
//! bytes travel. `hf-hub` finds the commit and the names; its own downloads neither go on where they broke off nor check what
//! came, so those are [`Transfer`]'s.

use super::choose::{Choice, choose};
use super::partial::Hash;
use super::transfer::{Failure, Pace, Transfer, Wanted};
use super::{Found, digest, error, folder, links};
use crate::{HubOptions, LoadError, LoadOptions, Phase};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hf_hub::HFError;
use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Response, Url};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Redirects within the hub that are followed.
const MOVES: usize = 5;
const PUBLIC: &str = "https://huggingface.co";
/// How often the listing is asked for again.
const AGAIN: usize = 2;
/// Heads of files asked for at once.
const HEADS: usize = 8;

/// What is wanted of the hub.
pub(super) struct Repository<'a> {
    /// `owner/name`.
    pub(super) repo: &'a str,
    /// Branch, tag or commit.
    pub(super) revision: &'a str,
    /// A GGUF file, or its format.
    pub(super) file: Option<&'a str>,
}

/// Fetches the needed files of a repository, if they are not in the cache.
///
/// # Errors
/// [`LoadError::Source`] naming the repository, the address and the cause.
pub(super) fn fetch(
    wanted: &Repository<'_>,
    options: &LoadOptions,
    pace: Pace,
) -> Result<Found, LoadError> {
    let hub = &options.fetch.hub;
    let fail = |reason: String| error(wanted.repo, reason);
    let cache = match &hub.cache {
        Some(folder) => folder.clone(),
        None => options.fetch.cache("hub", wanted.repo)?,
    };
    let place = cache.join(format!("models--{}", wanted.repo.replace('/', "--")));
    if hub.offline {
        let snapshot = cached(&place, wanted).map_err(&fail)?.ok_or_else(|| {
            fail(format!(
                "is not in the cache ({}), and HF_HUB_OFFLINE forbids to fetch it",
                place.display()
            ))
        })?;
        return in_snapshot(&snapshot, wanted, options);
    }
    let (commit, names) = match listing(wanted, hub, pace) {
        Ok(found) => found,
        Err(failure) => {
            let reason = explain(wanted, &failure);
            let snapshot = if passing(&failure) {
                cached(&place, wanted).map_err(&fail)?
            } else {
                None
            };
            let Some(snapshot) = snapshot else {
                return Err(fail(reason));
            };
            tracing::warn!(
                repository = wanted.repo,
                "{reason}; what is in the cache is used"
            );
            return in_snapshot(&snapshot, wanted, options);
        }
    };
    let choice = choose(&names, wanted.file).map_err(&fail)?;
    let snapshot = place.join("snapshots").join(&commit);
    let whole = choice
        .files
        .iter()
        .all(|name| snapshot.join(name).is_file());
    if !whole {
        let base = base(hub, wanted, &commit).map_err(&fail)?;
        let download = Download {
            base,
            token: token(hub).map_err(&fail)?,
            place: &place,
            pace,
        };
        let runtime = super::runtime().map_err(&fail)?;
        runtime
            .block_on(download.run(&choice, &snapshot, options))
            .map_err(|failure| fail(refused(wanted, &failure)))?;
    }
    remember(&place, wanted.revision, &commit).map_err(|e| fail(e.to_string()))?;
    opened(&snapshot, &choice, wanted, options)
}

/// The commit of a revision, and all names in it.
fn listing(
    wanted: &Repository<'_>,
    hub: &HubOptions,
    pace: Pace,
) -> Result<(String, Vec<String>), HFError> {
    let http = reqwest::Client::builder()
        .user_agent(concat!("koma/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(pace.silence)
        .read_timeout(pace.silence)
        .build()?;
    let mut client = hf_hub::HFClient::builder()
        .client(http)
        .endpoint(endpoint(hub))
        .retry_max_attempts(AGAIN)
        .retry_base_delay(pace.pause / 2)
        // Koma keeps the cache itself.
        .cache_enabled(false);
    if let Some(token) = &hub.token {
        client = client.token(token.reveal());
    }
    let (owner, name) = wanted.repo.split_once('/').unwrap_or(("", wanted.repo));
    let model = client.build_sync()?.model(owner, name);
    let info = model.info().revision(wanted.revision).send()?;
    let missing = |what: &str| HFError::malformed_response(format!("the {what} of the repository"));
    let commit = info.sha.ok_or_else(|| missing("commit"))?;
    if commit.is_empty() || !commit.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(missing("commit"));
    }
    let files = info.siblings.ok_or_else(|| missing("file list"))?;
    Ok((
        commit,
        files.into_iter().map(|file| file.rfilename).collect(),
    ))
}

fn endpoint(hub: &HubOptions) -> &str {
    hub.endpoint
        .as_deref()
        .unwrap_or(PUBLIC)
        .trim_end_matches('/')
}

/// Where the files of a commit lie.
fn base(hub: &HubOptions, wanted: &Repository<'_>, commit: &str) -> Result<Url, String> {
    let address = format!("{}/{}/resolve/{commit}/", endpoint(hub), wanted.repo);
    Url::parse(&address).map_err(|e| format!("{address}: {e}"))
}

fn token(hub: &HubOptions) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    if let Some(token) = &hub.token {
        let value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
        let mut value =
            value.map_err(|_| "the token of the hub has letters that cannot be sent")?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// The commit in the cache that a revision stands for, if it is there.
///
/// # Errors
/// What cannot be read, and why.
fn cached(place: &Path, wanted: &Repository<'_>) -> Result<Option<PathBuf>, String> {
    let missing =
        |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    let failed = |path: &Path, e: &io::Error| format!("{}: {e}", path.display());
    let name = place.join("refs").join(wanted.revision);
    let commit = match std::fs::read_to_string(&name) {
        Ok(commit) => commit.trim().to_owned(),
        // A commit by itself.
        Err(error) if missing(&error) || name.is_dir() => wanted.revision.to_owned(),
        Err(error) => return Err(failed(&name, &error)),
    };
    let snapshot = place.join("snapshots").join(commit);
    match std::fs::metadata(&snapshot) {
        Ok(found) => Ok(found.is_dir().then_some(snapshot)),
        Err(error) if missing(&error) => Ok(None),
        Err(error) => Err(failed(&snapshot, &error)),
    }
}

/// The model among what is in a snapshot.
fn in_snapshot(
    snapshot: &Path,
    wanted: &Repository<'_>,
    options: &LoadOptions,
) -> Result<Found, LoadError> {
    let fail = |reason: String| error(wanted.repo, format!("in {}: {reason}", snapshot.display()));
    let names = super::names_in(snapshot).map_err(|e| fail(e.to_string()))?;
    let choice = choose(&names, wanted.file).map_err(&fail)?;
    opened(snapshot, &choice, wanted, options)
}

fn opened(
    snapshot: &Path,
    choice: &Choice,
    wanted: &Repository<'_>,
    options: &LoadOptions,
) -> Result<Found, LoadError> {
    if let Some(name) = &choice.gguf {
        return Ok(Found::Gguf(snapshot.join(name)));
    }
    let origin = format!("{}@{}", wanted.repo, wanted.revision);
    folder::model_in(snapshot, &origin, options)
}

/// Notes which commit a branch or tag stands for.
fn remember(place: &Path, revision: &str, commit: &str) -> io::Result<()> {
    let path = place.join("refs").join(revision);
    if revision == commit || std::fs::read_to_string(&path).is_ok_and(|old| old == commit) {
        return Ok(());
    }
    super::write_whole(&path, commit.as_bytes())
}

/// Files of one commit on their way into the cache.
struct Download<'a> {
    base: Url,
    token: HeaderMap,
    place: &'a Path,
    pace: Pace,
}

impl Download<'_> {
    async fn run(
        &self,
        choice: &Choice,
        snapshot: &Path,
        options: &LoadOptions,
    ) -> Result<(), Failure> {
        let heads = &Transfer::new(false, self.pace).map_err(Failure::own)?;
        let missing = choice
            .files
            .iter()
            .filter(|name| !snapshot.join(name).is_file());
        let wanted: Vec<(&String, Wanted)> = stream::iter(missing)
            .map(|name| async move { Ok::<_, Failure>((name, self.head(heads, name).await?)) })
            .buffered(HEADS)
            .try_collect()
            .await?;
        let bodies = Transfer::new(true, self.pace).map_err(Failure::own)?;
        let files: Vec<Wanted> = wanted.iter().map(|(_, file)| file.clone()).collect();
        let told = |done, total| options.report(Phase::Fetching, done, total);
        bodies.fetch(&files, &|_| self.token.clone(), &told).await?;
        for (name, file) in &wanted {
            let up = "../".repeat(2 + name.matches('/').count());
            let blob = file.path.file_name().unwrap_or_default();
            let target = Path::new(&up).join("blobs").join(blob);
            let linked = links::link(&target, &snapshot.join(name));
            linked.map_err(|e| Failure::own(format!("{}: {e}", snapshot.display())))?;
        }
        Ok(())
    }

    /// Size and hash of a file: the hub tells them before it sends elsewhere for the contents. Its tag is the sha256 of a
    /// large file, and git's own hash of a small one.
    async fn head(&self, heads: &Transfer, name: &str) -> Result<Wanted, Failure> {
        let mut url = self.base.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(name.split('/'));
        }
        let mut answer = heads
            .ask(|client| client.head(url.clone()).headers(self.token.clone()))
            .await?;
        // A repository that has another name now, or a file that lies elsewhere on the hub: only there may the token go.
        for _ in 0..MOVES {
            let here = |to: &String| to.starts_with('/') && !to.starts_with("//");
            let to = header(&answer, LOCATION.as_str()).filter(here);
            let to = to.filter(|_| answer.status().is_redirection());
            let Some(to) = to.and_then(|to| answer.url().join(&to).ok()) else {
                break;
            };
            answer = heads
                .ask(|client| client.head(to.clone()).headers(self.token.clone()))
                .await?;
        }
        // A redirect's own tag and length are not the file's.
        let own = |name: &str| {
            answer
                .status()
                .is_success()
                .then(|| header(&answer, name))?
        };
        let large = header(&answer, "x-linked-etag");
        let etag = large.or_else(|| own(ETAG.as_str()));
        let etag = etag.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned());
        let size = header(&answer, "x-linked-size").or_else(|| own("content-length"));
        let size = size.and_then(|size| size.parse().ok());
        let lacks = |what: &str| Failure::own(format!("{url}: the hub does not tell its {what}"));
        let etag =
            etag.filter(|tag| tag.bytes().all(|b| b.is_ascii_alphanumeric()) && !tag.is_empty());
        let etag = etag.ok_or_else(|| lacks("tag"))?;
        Ok(Wanted {
            path: self.place.join("blobs").join(&etag),
            size: size.ok_or_else(|| lacks("size"))?,
            hash: hash(&etag),
            etag: None,
            url,
        })
    }
}

/// What the contents go by that have the tag `etag`; none if that is of no known kind.
fn hash(etag: &str) -> Option<Hash> {
    let of_large = |path: &Path| Ok(vec![digest(path, Sha256::new())?]);
    // Git's name of the contents; some servers that stand in for the hub give the sha1 of the contents alone.
    let of_small = |path: &Path| {
        let head = format!("blob {}\0", std::fs::metadata(path)?.len());
        let git = Sha1::new().chain_update(head);
        Ok(vec![digest(path, git)?, digest(path, Sha1::new())?])
    };
    let of: fn(&Path) -> io::Result<Vec<String>> = match etag.len() {
        64 => of_large,
        40 => of_small,
        _ => return None,
    };
    Some(Hash {
        name: if etag.len() == 64 {
            "sha256"
        } else {
            "git hash"
        },
        digits: etag.to_ascii_lowercase(),
        of,
        void: |_| false,
    })
}

fn header(answer: &Response, name: &str) -> Option<String> {
    let value = answer.headers().get(name)?;
    value.to_str().ok().map(str::to_owned)
}

/// Whether the hub could not be asked, rather than said no.
fn passing(failure: &HFError) -> bool {
    match failure {
        HFError::Request { .. } | HFError::RateLimited { .. } => true,
        HFError::Http { context } => context.status.is_server_error(),
        _ => false,
    }
}

/// What a refusal of the listing means.
fn explain(wanted: &Repository<'_>, failure: &HFError) -> String {
    let Repository { repo, revision, .. } = wanted;
    match failure {
        HFError::RevisionNotFound {
            context: Some(context),
            ..
        } if context.error_code.as_deref() == Some("RevisionNotFound") => {
            format!("{repo} has no revision {revision} ({})", context.url)
        }
        HFError::RepoNotFound { context, .. } | HFError::RevisionNotFound { context, .. } => {
            let at = context.as_ref().map_or("", |c| c.url.as_str());
            format!(
                "the hub has no repository {repo} with the revision {revision}, or this token may not see it ({at})"
            )
        }
        HFError::AuthRequired { .. } => {
            format!(
                "the hub wants a token that may read {repo} (HF_TOKEN), or there is no such repository: {failure}"
            )
        }
        HFError::Forbidden { .. } => {
            format!(
                "this token may not read {repo}; a gated repository is opened on its page: {failure}"
            )
        }
        _ => format!("the hub cannot be asked: {failure}"),
    }
}

/// What a refusal of a file means.
fn refused(wanted: &Repository<'_>, failure: &Failure) -> String {
    let hint = match failure.status.map(|status| status.as_u16()) {
        Some(401) => format!(
            "; the hub wants a token that may read {} (HF_TOKEN)",
            wanted.repo
        ),
        Some(403) => format!(
            "; a gated repository is opened on its page ({})",
            wanted.repo
        ),
        _ => String::new(),
    };
    format!("{}{hint}", failure.reason)
}
