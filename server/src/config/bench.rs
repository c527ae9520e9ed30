//! What `koma bench` measures: [`BenchConfig`] for a model in this process, [`BenchServeConfig`] for a server.

use super::values::Values;
use super::{ModelConfig, ProcessConfig, Surroundings, model, models, process};
use crate::args::{BenchServeArgs, Endpoint, Environment, Goodput, LoadArgs};
use koma_engine::models::Secret;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// All that `koma bench throughput` and `koma bench latency` need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BenchConfig {
    pub(crate) process: ProcessConfig,
    pub(crate) model: ModelConfig,
    pub(crate) batch: usize,
    pub(crate) input_len: usize,
    /// Tokens of the shortest prompt, at most `input_len`.
    pub(crate) shortest_input: usize,
    /// None: not given.
    pub(crate) output_len: Option<usize>,
    pub(crate) runs: usize,
    pub(crate) warmup: usize,
    pub(crate) seed: u64,
    pub(crate) json: Option<PathBuf>,
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// So many in flight: the next is sent when one has ended.
    Concurrency(usize),
    /// So many a second on average, at times that do not depend on the answers.
    Rate(f64),
}

/// All that `koma bench serve` needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BenchServeConfig {
    pub(crate) process: ProcessConfig,
    /// The server, without `/v1` and without a slash at the end.
    pub(crate) url: String,
    pub(crate) endpoint: Endpoint,
    /// None: the server's only one.
    pub(crate) model: Option<String>,
    /// At least one.
    pub(crate) paces: Vec<Pace>,
    pub(crate) requests: usize,
    pub(crate) warmup: usize,
    pub(crate) input_len: usize,
    /// No token ids.
    pub(crate) words: bool,
    /// None where the endpoint does not generate.
    pub(crate) output_len: Option<usize>,
    /// Documents of a rerank request; 1 elsewhere.
    pub(crate) documents: usize,
    /// Not empty.
    pub(crate) token_ids: Range<u32>,
    pub(crate) goodput: Option<Goodput>,
    pub(crate) timeout: Duration,
    /// No connection serves two requests.
    pub(crate) new_connections: bool,
    pub(crate) seed: u64,
    pub(crate) json: Option<PathBuf>,
    pub(crate) api_key: Option<Secret>,
}

impl BenchConfig {
    /// Reads flags and variables. `defaults`: measured runs and those before.
    ///
    /// # Errors
    /// As [`super::ServeConfig::resolve`].
    pub(crate) fn resolve(
        args: &LoadArgs,
        defaults: (usize, usize),
        environment: &Environment,
        around: &Surroundings,
    ) -> Result<Self, String> {
        let mut flags = args.model.layer();
        flags.append(&mut args.device.layer());
        flags.append(&mut args.machine.layer());
        let variables = environment.layer();
        let values = Values::new(&[&flags, &variables]);
        let given = models::from_text(&args.source)?;
        let count = |number: u32| number as usize;
        let shortest = args.shortest_input.unwrap_or(args.input_len);
        if shortest > args.input_len {
            return Err("--shortest-input: is more than --input-len".into());
        }
        Ok(Self {
            process: process(&values, around)?,
            model: model(&given, &values)?,
            batch: count(args.batch),
            input_len: count(args.input_len),
            shortest_input: count(shortest),
            output_len: args.output_len.map(count),
            runs: args.runs.map_or(defaults.0, count),
            warmup: args.warmup.map_or(defaults.1, count),
            seed: args.seed,
            json: args.json.clone(),
        })
    }
}

impl BenchServeConfig {
    /// Output tokens of each request, unless said otherwise.
    const OUTPUT_LEN: usize = 64;

    /// Reads flags and variables.
    ///
    /// # Errors
    /// As [`super::ServeConfig::resolve`].
    pub(crate) fn resolve(
        args: &BenchServeArgs,
        environment: &Environment,
        around: &Surroundings,
    ) -> Result<Self, String> {
        let variables = environment.layer();
        let count = |number: u32| number as usize;
        let generates = matches!(args.endpoint, Endpoint::Completions | Endpoint::Chat);
        let output_len = match (generates, args.output_len) {
            (true, given) => Some(given.map_or(Self::OUTPUT_LEN, count)),
            (false, None) => None,
            (false, Some(_)) => return Err("--output-len: this endpoint does not generate".into()),
        };
        let documents = match (args.endpoint, args.documents) {
            (Endpoint::Rerank, given) => given.map_or(16, count),
            (_, None) => 1,
            (_, Some(_)) => return Err("--documents: only --endpoint rerank has documents".into()),
        };
        let per_token = args.goodput.is_some_and(|limits| limits.tpot.is_some());
        if per_token && !generates {
            return Err("--goodput: this endpoint has no time per token".into());
        }
        Ok(Self {
            process: process(&Values::new(&[&variables]), around)?,
            url: base(&args.url)?,
            endpoint: args.endpoint,
            model: args.model.clone(),
            paces: paces(args),
            requests: count(args.requests),
            warmup: count(args.warmup),
            input_len: count(args.input_len),
            words: args.words,
            output_len,
            documents,
            token_ids: args.token_ids.clone(),
            goodput: args.goodput,
            timeout: Duration::from_secs(args.timeout.into()),
            new_connections: args.new_connections,
            seed: args.seed,
            json: args.json.clone(),
            api_key: environment.api_key().map(Secret::new),
        })
    }
}

fn paces(args: &BenchServeArgs) -> Vec<Pace> {
    let rates = args.rate.iter().map(|rate| Pace::Rate(*rate));
    let mut paces: Vec<Pace> = rates.collect();
    let at_once = args.concurrency.iter().map(|n| *n as usize);
    paces.extend(at_once.map(Pace::Concurrency));
    if paces.is_empty() {
        paces.push(Pace::Concurrency(8));
    }
    paces
}

/// `http://host:8080/v1/` is the server `http://host:8080`.
pub(super) fn base(url: &str) -> Result<String, String> {
    let parsed = reqwest::Url::parse(url).ok().filter(|parsed| {
        let bare = parsed.query().is_none() && parsed.fragment().is_none();
        matches!(parsed.scheme(), "http" | "https") && parsed.has_host() && bare
    });
    let Some(parsed) = parsed else {
        return Err(format!(
            "--url: `{url}` is not possible; allowed: an http or https address such as http://127.0.0.1:8080"
        ));
    };
    let text = parsed.as_str().trim_end_matches('/');
    let text = text.strip_suffix("/v1").unwrap_or(text);
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{BenchCommand, Cli, Command};
    use clap::Parser;
    use std::path::Path;

    fn resolve(arguments: &str) -> Result<BenchServeConfig, String> {
        let words = "koma bench serve".split(' ').chain(arguments.split(' '));
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Command::Bench(BenchCommand::Serve(args)) = cli.command else {
            return Err("another command".to_owned());
        };
        let around = Surroundings {
            cores: 2,
            sagemaker: Path::new("/nowhere").to_owned(),
            ..Surroundings::default()
        };
        let environment = [("KOMA_API_KEY".to_owned(), "k".to_owned())];
        BenchServeConfig::resolve(&args, &environment.into_iter().collect(), &around)
    }

    #[test]
    fn the_address_may_end_in_v1() {
        for (given, base) in [
            ("http://a:8080", "http://a:8080"),
            ("http://a:8080/", "http://a:8080"),
            ("https://a/v1/", "https://a"),
            ("http://a/proxy/v1", "http://a/proxy"),
        ] {
            let config = resolve(&format!("--url {given}")).unwrap();
            assert_eq!(config.url, base, "{given}");
        }
        for wrong in ["a:8080", "ftp://a", "http://a?x=1", "http://"] {
            let error = resolve(&format!("--url {wrong}")).unwrap_err();
            assert!(error.contains("--url"), "{wrong}: {error}");
        }
    }

    #[test]
    fn defaults_depend_on_the_endpoint() {
        let config = resolve("--url http://a").unwrap();
        assert_eq!(config.paces, [Pace::Concurrency(8)]);
        assert_eq!((config.output_len, config.documents), (Some(64), 1));
        assert_eq!(config.api_key, Some(Secret::new("k")));
        assert!(!format!("{config:?}").contains("\"k\""));
        let config = resolve("--url http://a --endpoint rerank --rate 1,2.5").unwrap();
        assert_eq!(config.paces, [Pace::Rate(1.0), Pace::Rate(2.5)]);
        assert_eq!((config.output_len, config.documents), (None, 16));
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        for (arguments, part) in [
            (
                "--url http://a --endpoint embeddings --output-len 3",
                "--output-len",
            ),
            ("--url http://a --documents 3", "--documents"),
            (
                "--url http://a --endpoint rerank --goodput tpot:1",
                "--goodput",
            ),
            ("--url http://a --rate 1 --concurrency 2", "--concurrency"),
            ("--concurrency 2", "--url"),
        ] {
            let error = resolve(arguments).unwrap_err();
            assert!(error.contains(part), "{arguments}: {error}");
        }
    }
}
