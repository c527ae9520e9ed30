//! Where AWS credentials come from: what was configured, the container's service, the machine's.
//!
//! Must not know: what they are for. No message shows one.

use super::sigv4::Credentials;
use super::transfer::{Pace, Transfer};
use crate::{S3Options, Secret};
use reqwest::Url;
use serde_json::Value;
use std::net::IpAddr;

/// Seconds that a token of the machine's service is asked for.
const TOKEN_SECONDS: &str = "300";

/// Where ECS and EKS have their services.
const NEAR: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

/// The first credentials that there are, in the order of AWS's own tools.
///
/// # Errors
/// Where they were looked for, or what a service answered.
pub(super) async fn find(options: &S3Options, pace: Pace) -> Result<Credentials, String> {
    match (&options.access_key, &options.secret_key) {
        (Some(access_key), Some(secret_key)) => {
            return Ok(Credentials {
                access_key: access_key.clone(),
                secret_key: secret_key.clone(),
                session: options.session_token.clone(),
            });
        }
        (None, None) => {}
        _ => {
            return Err(
                "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set".to_owned(),
            );
        }
    }
    if let Some(file) = &options.web_identity {
        return Err(format!(
            "AWS_WEB_IDENTITY_TOKEN_FILE ({}) stands for a role that is not supported, and no other is taken in its place; set \
             AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or unset it to use the container's or the machine's role",
            file.display()
        ));
    }
    let http = Transfer::near(pace)?;
    if let Some(address) = &options.container {
        let token = match &options.container_token_file {
            Some(file) => Some(Secret::new(std::fs::read_to_string(file).map_err(|e| {
                let file = file.display();
                format!("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: {file}: {e}")
            })?)),
            None => options.container_token.clone(),
        };
        return of_container(address, token.as_ref(), &http).await;
    }
    let Some(address) = &options.instance else {
        return Err(
            "there are no AWS credentials: neither AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, nor \
             AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI, and AWS_EC2_METADATA_DISABLED forbids to ask the machine"
                .to_owned(),
        );
    };
    of_instance(address, &http).await.map_err(|reason| {
        format!(
            "there are no AWS credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
             AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI), and the machine has none: {reason}"
        )
    })
}

/// The service of ECS and EKS. It may only be this machine, a link-local address, or reached over TLS.
async fn of_container(
    address: &str,
    token: Option<&Secret>,
    http: &Transfer,
) -> Result<Credentials, String> {
    let url = Url::parse(address).map_err(|e| format!("container credentials: {address}: {e}"))?;
    let host = url.host_str().unwrap_or_default();
    let near = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || NEAR.contains(&ip.to_string().as_str()),
        Err(_) => host == "localhost",
    };
    if url.scheme() != "https" && !near {
        return Err(format!(
            "container credentials: {address} is neither https nor an address of this machine"
        ));
    }
    let answer = http.ask(|client| {
        let request = client.get(url.clone());
        match token {
            Some(token) => request.header("Authorization", token.reveal().trim()),
            None => request,
        }
    });
    let answer = answer.await.map_err(|failure| failure.reason)?;
    read(answer.text().await, address)
}

/// The service of EC2, version 2.
async fn of_instance(address: &str, http: &Transfer) -> Result<Credentials, String> {
    let address = address.trim_end_matches('/');
    let text = |path: &str, token: Option<String>| {
        let url = format!("{address}/latest/{path}");
        async move {
            let answer = http.ask(|client| match &token {
                Some(token) => client.get(&url).header("X-aws-ec2-metadata-token", token),
                None => client
                    .put(&url)
                    .header("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS),
            });
            let answer = answer.await.map_err(|failure| failure.reason)?;
            answer.text().await.map_err(|e| e.without_url().to_string())
        }
    };
    let token = text("api/token", None).await?;
    let roles = "meta-data/iam/security-credentials/";
    let role = text(roles, Some(token.clone())).await?;
    let role = role.lines().next().unwrap_or_default().trim();
    if role.is_empty() || role.contains('/') {
        return Err(format!("{address}: the machine has no role"));
    }
    let found = text(&format!("{roles}{role}"), Some(token)).await;
    read(Ok(found?), address)
}

/// The answer of both services.
fn read(text: reqwest::Result<String>, address: &str) -> Result<Credentials, String> {
    let text = text.map_err(|e| format!("{address}: {}", e.without_url()))?;
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let field = |name: &str| {
        let text = value[name].as_str().filter(|text| !text.is_empty());
        text.ok_or_else(|| format!("{address}: the credentials lack `{name}`"))
    };
    Ok(Credentials {
        access_key: field("AccessKeyId")?.to_owned(),
        secret_key: Secret::new(field("SecretAccessKey")?),
        session: value["Token"].as_str().map(Secret::new),
    })
}
