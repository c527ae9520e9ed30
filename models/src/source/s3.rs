//! Models in S3 and what speaks like it: `s3://bucket/prefix`.
//!
//! Owns: addresses of buckets, listing, the cache by tag. Must not know: how bytes travel or requests are signed.
//!
//! Invariant: a file in the cache goes by bucket, key and tag, so that changed contents are another file.

use super::choose::choose;
use super::credentials;
use super::partial::Hash;
use super::sigv4::{Credentials, encode, sign};
use super::transfer::{Failure, Pace, Transfer, Wanted};
use super::{Found, digest, error, folder, kept, links};
use crate::gguf::Split;
use crate::{LoadError, LoadOptions, Phase, S3Options};
use md5::Md5;
use reqwest::header::HeaderMap;
use reqwest::{StatusCode, Url};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Objects below a prefix at most: more than any model has.
const MAX_OBJECTS: usize = 100_000;
/// Bytes of one page of a listing at most.
const MAX_PAGE: usize = 16 << 20;
/// Where a bucket is if nothing says so.
const REGION: &str = "us-east-1";

/// An object of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Object {
    key: String,
    /// With its quotes.
    etag: String,
    size: u64,
}

/// Fetches the model below `prefix`, or the one archive or GGUF file that it names.
///
/// # Errors
/// [`LoadError::Source`] naming the bucket, the address and the cause.
pub(super) fn fetch(
    bucket: &str,
    prefix: &str,
    options: &LoadOptions,
    pace: Pace,
) -> Result<Found, LoadError> {
    let name = format!("s3://{bucket}/{prefix}");
    let fail = |reason: String| error(&name, reason);
    let cache = options.fetch.cache(kept::S3, &name)?;
    let runtime = super::runtime().map_err(&fail)?;
    let folder = runtime
        .block_on(fetch_into(&cache, bucket, prefix, options, pace))
        .map_err(&fail)?;
    kept::note(&folder, &name);
    folder::model_in(&folder, &name, options)
}

/// A folder of links to the files.
async fn fetch_into(
    cache: &Path,
    bucket: &str,
    prefix: &str,
    options: &LoadOptions,
    pace: Pace,
) -> Result<PathBuf, String> {
    let http = Transfer::new(false, pace)?;
    let credentials = credentials::find(&options.fetch.s3, pace).await?;
    let asked = Asked::of(prefix);
    let (place, objects) = list(bucket, &asked, &options.fetch.s3, credentials, &http).await?;
    let mut named = BTreeMap::new();
    for object in &objects {
        let name = object.key.strip_prefix(&asked.folder).unwrap_or_default();
        // Some tools make objects that stand for folders, some begin a name with a slash.
        let name = name.trim_start_matches('/');
        if !name.is_empty() && !name.ends_with('/') && asked.takes(name) {
            named.insert(name.to_owned(), object);
        }
    }
    if named.is_empty() {
        return Err(format!("{}: holds no object by this name", place.base));
    }
    let gguf = asked.file.filter(|name| folder::is_gguf(Path::new(name)));
    let choice = choose(&named.keys().cloned().collect::<Vec<_>>(), gguf)?;
    let mut wanted = Vec::new();
    let mut parts = BTreeMap::new();
    for name in choice.files {
        let object = named[&name];
        let mut hasher = Sha256::new();
        for text in [place.base.as_str(), &object.key, &object.etag] {
            hasher.update(text);
            hasher.update([0]);
        }
        let path = cache
            .join(kept::S3_BLOBS)
            .join(super::hex(&hasher.finalize()));
        parts.insert(PathBuf::from(name), path.clone());
        wanted.push(Wanted {
            url: place.object(&object.key)?,
            path,
            size: object.size,
            // For an empty object nobody is asked, and so it is not known what its tag is of.
            hash: hash(&object.etag).filter(|_| object.size > 0),
            etag: Some(object.etag.clone()),
        });
    }
    let told = |done, total| options.report(Phase::Fetching, done, total);
    // An address that cannot be signed was refused by the listing; the server says the rest.
    let signed = |url: &Url| place.sign(url).unwrap_or_default();
    let fetched = http.fetch(&wanted, &signed, &told).await;
    fetched.map_err(|failure| failure.reason)?;
    links::folder_of(&parts, &cache.join(kept::S3_MODELS))
        .map_err(|e| format!("{}: {e}", cache.display()))
}

/// What a prefix asks for.
struct Asked<'a> {
    /// What comes before the names of the files: nothing, or it ends with a slash.
    folder: String,
    /// The one file of it that is meant: an archive, or a GGUF file, which may be one part of several.
    file: Option<&'a str>,
    /// How the keys of all that is wanted begin.
    begin: String,
}

impl<'a> Asked<'a> {
    fn of(prefix: &'a str) -> Self {
        let path = Path::new(prefix);
        if folder::is_gguf(path) || folder::is_archive(path) {
            let name = prefix.rsplit('/').next().unwrap_or(prefix);
            let folder = prefix[..prefix.len() - name.len()].to_owned();
            let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str());
            let split = stem.and_then(Split::named);
            let begin = match split {
                Some((stem, _)) => format!("{folder}{stem}-"),
                None => prefix.to_owned(),
            };
            let file = Some(name);
            return Self {
                folder,
                file,
                begin,
            };
        }
        let folder = match prefix {
            "" => String::new(),
            prefix if prefix.ends_with('/') => prefix.to_owned(),
            prefix => format!("{prefix}/"),
        };
        let begin = folder.clone();
        Self {
            folder,
            file: None,
            begin,
        }
    }

    /// Whether the file `name` may be wanted: parts of a GGUF file are told by who chooses.
    fn takes(&self, name: &str) -> bool {
        self.file.is_none_or(|file| {
            let both = [name, file].map(|name| folder::is_gguf(Path::new(name)));
            name == file || both == [true, true]
        })
    }
}

/// The MD5 of contents that were stored in one piece; otherwise a tag is of some other kind.
fn hash(etag: &str) -> Option<Hash> {
    let digits = etag.trim_matches('"').to_ascii_lowercase();
    let is_md5 = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_md5.then_some(Hash {
        name: "md5",
        digits,
        of: |path| Ok(vec![digest(path, Md5::new())?]),
        // With keys of KMS, or of the customer, the tag is not of the contents.
        void: |headers| {
            let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            text("x-amz-server-side-encryption").is_some_and(|how| how != "AES256")
                || text("x-amz-server-side-encryption-customer-algorithm").is_some()
        },
    })
}

/// A bucket, with what opens it.
struct Place {
    /// Ends with a slash.
    base: Url,
    region: String,
    credentials: Credentials,
}

impl Place {
    fn new(
        bucket: &str,
        options: &S3Options,
        region: &str,
        credentials: Credentials,
    ) -> Result<Self, String> {
        let address = match &options.endpoint {
            Some(endpoint) => format!("{}/{bucket}/", endpoint.trim_end_matches('/')),
            None => on_aws(bucket, region),
        };
        let base = Url::parse(&address).map_err(|e| format!("{address}: {e}"))?;
        let region = region.to_owned();
        Ok(Self {
            base,
            region,
            credentials,
        })
    }

    fn object(&self, key: &str) -> Result<Url, String> {
        let address = format!("{}{}", self.base, encode(key, '/'));
        let url = Url::parse(&address).map_err(|e| format!("{address}: {e}"))?;
        if url.as_str() != address {
            return Err(format!("`{key}` cannot be the path of an address"));
        }
        Ok(url)
    }

    fn sign(&self, url: &Url) -> Result<HeaderMap, String> {
        sign(url, &[], &self.credentials, &self.region, SystemTime::now())
    }

    /// One page of the objects that begin with `prefix`, and where the next one begins.
    async fn page(
        &self,
        prefix: &str,
        from: Option<&str>,
        http: &Transfer,
    ) -> Result<Result<Page, String>, Failure> {
        let mut url = self.base.clone();
        let token = from.map_or(String::new(), |from| {
            format!("continuation-token={}&", encode(from, '~'))
        });
        url.set_query(Some(&format!(
            "{token}list-type=2&prefix={}",
            encode(prefix, '~')
        )));
        let headers = self.sign(&url).map_err(Failure::own)?;
        let mut answer = http
            .ask(|client| client.get(url.clone()).headers(headers.clone()))
            .await?;
        if answer.status().is_redirection() {
            return Err(Failure::answered(&url, &answer));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|e| Failure::own(format!("{}: {}", self.base, e.without_url())))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_PAGE {
                return Err(Failure::own(format!(
                    "{}: a page of the listing is too long",
                    self.base
                )));
            }
        }
        let text = String::from_utf8_lossy(&body);
        Ok(read_page(&text).map_err(|reason| format!("{}: {reason}", self.base)))
    }
}

/// The bucket and all its objects that may be wanted.
async fn list(
    bucket: &str,
    Asked { begin, .. }: &Asked<'_>,
    options: &S3Options,
    credentials: Credentials,
    http: &Transfer,
) -> Result<(Place, Vec<Object>), String> {
    let region = options.region.as_deref().unwrap_or(REGION);
    let mut place = Place::new(bucket, options, region, credentials)?;
    let mut moved = false;
    let mut objects = Vec::new();
    let mut from: Option<String> = None;
    loop {
        let page = match place.page(begin, from.as_deref(), http).await {
            Ok(page) => page?,
            Err(failure) => {
                // A bucket in another region says which one; asked once more there.
                let told = failure
                    .headers
                    .get("x-amz-bucket-region")
                    .and_then(|v| v.to_str().ok());
                match told {
                    Some(region) if region != place.region && objects.is_empty() && !moved => {
                        moved = true;
                        place = Place::new(bucket, options, region, place.credentials)?;
                        continue;
                    }
                    _ => return Err(explain(&failure)),
                }
            }
        };
        objects.extend(page.objects);
        if objects.len() > MAX_OBJECTS {
            return Err(format!(
                "{}: more than {MAX_OBJECTS} objects begin with `{begin}`",
                place.base
            ));
        }
        match page.next {
            Some(next) if from.as_ref() != Some(&next) => from = Some(next),
            _ => return Ok((place, objects)),
        }
    }
}

/// The address of a bucket of AWS.
pub(super) fn on_aws(bucket: &str, region: &str) -> String {
    let end = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    // A certificate of `*.s3...` does not stand for names with dots.
    if bucket.contains('.') {
        format!("https://s3.{region}.{end}/{bucket}/")
    } else {
        format!("https://{bucket}.s3.{region}.{end}/")
    }
}

fn explain(failure: &Failure) -> String {
    let hint = match failure.status {
        Some(StatusCode::FORBIDDEN) => {
            "; these credentials may not list it (s3:ListBucket), or it is not theirs"
        }
        Some(StatusCode::NOT_FOUND) => "; there is no such bucket",
        _ => "",
    };
    format!("{}{hint}", failure.reason)
}

/// A page of a listing.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    objects: Vec<Object>,
    next: Option<String>,
}

/// Reads the answer to `ListObjectsV2`: as much of XML as it needs.
fn read_page(text: &str) -> Result<Page, String> {
    if !text.contains("<ListBucketResult") {
        return Err("the answer is no listing of a bucket".to_owned());
    }
    let mut objects = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("<Contents>") {
        let (one, after) = after
            .split_once("</Contents>")
            .ok_or("the listing ends early")?;
        rest = after;
        let field =
            |name: &str| element(one, name).ok_or_else(|| format!("an object lacks {name}"));
        objects.push(Object {
            key: field("Key")?,
            etag: field("ETag")?,
            size: field("Size")?
                .parse()
                .map_err(|_| "an object has no size")?,
        });
    }
    let more = element(text, "IsTruncated").is_some_and(|value| value == "true");
    let next = element(text, "NextContinuationToken").filter(|_| more);
    if more && next.is_none() {
        return Err("the listing goes on, but does not say where".to_owned());
    }
    Ok(Page { objects, next })
}

/// The text of the first element `name`, entities resolved.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    let mut resolved = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((before, after)) = rest.split_once('&') {
        let (entity, after) = after.split_once(';')?;
        resolved += before;
        resolved.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            other => {
                let number = other.strip_prefix('#')?;
                let code = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => number.parse(),
                };
                char::from_u32(code.ok()?)?
            }
        });
        rest = after;
    }
    Some(resolved + rest)
}
