//! What the variables of the hub's and AWS's tools mean.

use super::Environment;
use koma_engine::models::{FetchOptions, HubOptions, S3Options, Secret};

fn fetch(variables: &[(&str, &str)]) -> FetchOptions {
    let owned = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let environment: Environment = owned.collect();
    environment.fetch()
}

/// What a process has whose home is `/h` and that is told nothing else.
fn usual() -> FetchOptions {
    FetchOptions {
        data_dir: Some("/h/.cache/koma".into()),
        hub: HubOptions {
            cache: Some("/h/.cache/huggingface/hub".into()),
            ..HubOptions::default()
        },
        s3: S3Options {
            instance: Some("http://169.254.169.254".to_owned()),
            ..S3Options::default()
        },
    }
}

/// Beside a home, these variables change what is usual as `change` does.
fn check(variables: &[(&str, &str)], change: impl FnOnce(&mut FetchOptions)) {
    let mut expected = usual();
    change(&mut expected);
    let all = [&[("HOME", "/h")], variables].concat();
    assert_eq!(fetch(&all), expected, "{variables:?}");
}

#[test]
fn each_variable_of_the_hub_is_read() {
    check(&[], |_| {});
    // What is empty is not set.
    check(&[("HF_TOKEN", ""), ("HF_ENDPOINT", "")], |_| {});
    check(&[("HF_ENDPOINT", "http://h")], |o| {
        o.hub.endpoint = Some("http://h".to_owned());
    });
    check(&[("HF_TOKEN", " t\n")], |o| {
        o.hub.token = Some(Secret::new("t"));
    });
    check(&[("HF_HUB_CACHE", "/c")], |o| {
        o.hub.cache = Some("/c".into());
    });
    check(&[("HF_HOME", "/f")], |o| {
        o.hub.cache = Some("/f/hub".into());
    });
    let both = [("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")];
    check(&both, |o| o.hub.cache = Some("/c".into()));
    check(&[("XDG_CACHE_HOME", "/x")], |o| {
        o.hub.cache = Some("/x/huggingface/hub".into());
        o.data_dir = Some("/x/koma".into());
    });
    for (value, offline) in [("1", true), ("TRUE", true), ("on", true), ("0", false)] {
        check(&[("HF_HUB_OFFLINE", value)], |o| o.hub.offline = offline);
    }
}

#[test]
fn the_token_of_the_hub_may_lie_in_a_file() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    std::fs::write(&file, "in-a-file\n").unwrap();
    let (home, file) = (home.path().to_str().unwrap(), file.to_str().unwrap());
    check(&[("HF_TOKEN_PATH", file)], |o| {
        o.hub.token = Some(Secret::new("in-a-file"));
    });
    check(&[("HF_HOME", home)], |o| {
        o.hub.cache = Some(format!("{home}/hub").into());
        o.hub.token = Some(Secret::new("in-a-file"));
    });
    check(&[("HF_TOKEN_PATH", file), ("HF_TOKEN", "own")], |o| {
        o.hub.token = Some(Secret::new("own"));
    });
    check(&[("HF_TOKEN_PATH", "/nowhere")], |_| {});
}

#[test]
fn each_variable_of_aws_is_read() {
    let text = |text: &str| Some(text.to_owned());
    check(&[("AWS_REGION", "r")], |o| o.s3.region = text("r"));
    check(&[("AWS_DEFAULT_REGION", "d")], |o| o.s3.region = text("d"));
    check(&[("AWS_REGION", "r"), ("AWS_DEFAULT_REGION", "d")], |o| {
        o.s3.region = text("r");
    });
    check(&[("AWS_ENDPOINT_URL", "e")], |o| o.s3.endpoint = text("e"));
    let both = [("AWS_ENDPOINT_URL", "e"), ("AWS_ENDPOINT_URL_S3", "s")];
    check(&both, |o| o.s3.endpoint = text("s"));
    check(&[("AWS_ACCESS_KEY_ID", "a")], |o| {
        o.s3.access_key = text("a");
    });
    check(&[("AWS_SECRET_ACCESS_KEY", "k")], |o| {
        o.s3.secret_key = Some(Secret::new("k"));
    });
    check(&[("AWS_SESSION_TOKEN", "s")], |o| {
        o.s3.session_token = Some(Secret::new("s"));
    });
    check(
        &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")],
        |o| {
            o.s3.container = text("http://169.254.170.2/v2/x");
        },
    );
    check(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://f")], |o| {
        o.s3.container = text("http://f");
    });
    check(&[("AWS_CONTAINER_AUTHORIZATION_TOKEN", "t")], |o| {
        o.s3.container_token = Some(Secret::new("t"));
    });
    check(&[("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/t")], |o| {
        o.s3.container_token_file = Some("/t".into());
    });
    check(&[("AWS_WEB_IDENTITY_TOKEN_FILE", "/w")], |o| {
        o.s3.web_identity = Some("/w".into());
    });
    check(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://m")], |o| {
        o.s3.instance = text("http://m");
    });
    check(&[("AWS_EC2_METADATA_DISABLED", "True")], |o| {
        o.s3.instance = None;
    });
    check(&[("AWS_EC2_METADATA_DISABLED", "false")], |_| {});
}

#[test]
fn what_is_secret_is_not_shown() {
    let secrets = [
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    ];
    let variables = secrets.map(|name| (name, "hidden"));
    let options = format!("{:?}", fetch(&variables));
    assert!(
        !options.contains("hidden") && options.contains("***"),
        "{options}"
    );
}
