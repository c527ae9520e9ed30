//! AWS Signature Version 4 of requests without a body, as the IAM user guide describes it.
//!
//! Owns: the canonical form and the keys. Must not know: what is asked, or where the credentials come from. Nothing here is
//! ever shown.

use crate::Secret;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The sha256 of no body.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) access_key: String,
    pub(super) secret_key: Secret,
    /// Of a session that ends.
    pub(super) session: Option<Secret>,
}

/// Headers that sign a GET of `url` from S3 in `region` at the time `now`, beside `also`, which is sent too.
///
/// # Errors
/// If the credentials or the address have letters that cannot be sent.
pub(super) fn sign(
    url: &Url,
    also: &[(&'static str, &str)],
    credentials: &Credentials,
    region: &str,
    now: SystemTime,
) -> Result<HeaderMap, String> {
    let time = stamp(now);
    let day = &time[..8];
    let host = match (url.host_str().unwrap_or_default(), url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let mut headers = BTreeMap::from([
        ("host", host.as_str()),
        ("x-amz-content-sha256", EMPTY),
        ("x-amz-date", &time),
    ]);
    headers.extend(also.iter().copied());
    if let Some(session) = &credentials.session {
        headers.insert("x-amz-security-token", session.reveal());
    }
    let names = headers.keys().copied().collect::<Vec<_>>().join(";");
    let lines = headers
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"));
    let request = format!(
        "GET\n{}\n{}\n{}\n{names}\n{EMPTY}",
        url.path(),
        canonical_query(url),
        lines.collect::<String>()
    );
    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        hash(request.as_bytes())
    );
    let first = format!("AWS4{}", credentials.secret_key.reveal());
    let steps = [day, region, "s3", "aws4_request", &text];
    let signature = steps.iter().fold(first.into_bytes(), |key, step| {
        hmac(&key, step.as_bytes()).to_vec()
    });
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
        credentials.access_key,
        super::hex(&signature)
    );
    let mut signed = HeaderMap::new();
    // The client writes the host itself.
    for (name, value) in headers.into_iter().filter(|(name, _)| *name != "host") {
        signed.insert(HeaderName::from_static(name), secret_value(value)?);
    }
    signed.insert(AUTHORIZATION, secret_value(&authorization)?);
    Ok(signed)
}

fn secret_value(text: &str) -> Result<HeaderValue, String> {
    let value = HeaderValue::from_str(text);
    let mut value = value.map_err(|_| "the AWS credentials have letters that cannot be sent")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Fields of the query in order, each with a value, as they are encoded in the address.
fn canonical_query(url: &Url) -> String {
    let fields = url.query().unwrap_or_default().split('&');
    let mut fields: Vec<String> = fields
        .filter(|field| !field.is_empty())
        .map(|field| {
            if field.contains('=') {
                field.to_owned()
            } else {
                format!("{field}=")
            }
        })
        .collect();
    fields.sort();
    fields.join("&")
}

/// `text` with all but unreserved letters percent-encoded; `kept` too stays as it is.
pub(super) fn encode(text: &str, kept: char) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let letter = char::from(byte);
        if letter.is_ascii_alphanumeric() || "-_.~".contains(letter) || letter == kept {
            encoded.push(letter);
        } else {
            // Writing to a text cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn hash(bytes: &[u8]) -> String {
    super::hex(&Sha256::digest(bytes))
}

/// HMAC-SHA256 (RFC 2104).
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(message);
    let outer = Sha256::new()
        .chain_update(padded(0x5C))
        .chain_update(inner.finalize());
    outer.finalize().into()
}

/// `20130524T000000Z`.
fn stamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (mut year, mut left) = (1970_u64, days);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let long = |year| if leap(year) { 366 } else { 365 };
    while left >= long(year) {
        left -= long(year);
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < days {
            break;
        }
        left -= days;
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!(
        "{year:04}{month:02}{:02}T{hour:02}{minute:02}{second:02}Z",
        left + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(address: &str, also: &[(&'static str, &str)]) -> String {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            session: None,
        };
        // Friday, 24 May 2013.
        let now = UNIX_EPOCH + Duration::from_hours(380_376);
        let url = Url::parse(address).unwrap();
        let signed = sign(&url, also, &credentials, "us-east-1", now).unwrap();
        let text = signed[AUTHORIZATION].to_str().unwrap();
        text.rsplit_once('=').unwrap().1.to_owned()
    }

    /// The examples of "Authenticating Requests: Using the Authorization Header" of the S3 API reference.
    #[test]
    fn published_examples_have_the_published_signatures() {
        let host = "https://examplebucket.s3.amazonaws.com";
        for (address, also, expected) in [
            (
                "/test.txt",
                &[("range", "bytes=0-9")][..],
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                "/?lifecycle",
                &[],
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                "/?prefix=J&max-keys=2",
                &[],
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            assert_eq!(
                example(&format!("{host}{address}"), also),
                expected,
                "{address}"
            );
        }
        assert_ne!(
            example(&format!("{host}/?prefix=J&max-keys=3"), &[]),
            example(&format!("{host}/?prefix=J&max-keys=2"), &[])
        );
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "19700101T000000Z"),
            (1_369_353_600, "20130524T000000Z"),
            (1_709_210_096, "20240229T123456Z"),
            (1_735_689_599, "20241231T235959Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(stamp(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    /// RFC 4231, test cases 2 and 6.
    #[test]
    fn hmac_is_that_of_the_rfc() {
        let hex = |key: &[u8], text: &str| super::super::hex(&hmac(key, text.as_bytes()));
        assert_eq!(
            hex(b"Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(
                &[0xaa; 131],
                "Test Using Larger Than Block-Size Key - Hash Key First"
            ),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn keys_are_encoded_but_for_unreserved_letters() {
        assert_eq!(encode("a b+c/漫~-_.", '/'), "a%20b%2Bc/%E6%BC%AB~-_.");
        assert_eq!(encode("a/b", '~'), "a%2Fb");
    }
}
