//! What `koma bench` takes.
//!
//! Owns: flags, help texts and the form of `--goodput`. Must not know: how anything is measured.

use super::{DeviceArgs, MachineArgs, ModelArgs};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;

const LOAD_EXAMPLES: &str = "\
Examples:
  koma bench throughput chat.gguf --batch 8 --input-len 512 --output-len 128
  koma bench latency ./all-MiniLM-L6-v2 --batch 32 --input-len 128 --json result.json";

const SERVE_EXAMPLES: &str = "\
Examples:
  Eight requests at a time, and then 32:
    koma bench serve --url http://127.0.0.1:8080 --model chat --concurrency 8,32 --input-len 512 --output-len 128
  Requests that arrive at random, 2 and 4 a second on average, with a goal for each:
    koma bench serve --url http://127.0.0.1:8080 --model chat --rate 2,4 --goodput ttft:500,tpot:50 --json result.json
  Fifty documents a request:
    koma bench serve --url http://127.0.0.1:8080 --model rerank --endpoint rerank --documents 50

KOMA_API_KEY is sent as bearer token. Proxies are not used.";

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure how many tokens a second a model computes, without HTTP: seeded random prompts, exact lengths.
    #[command(after_help = LOAD_EXAMPLES)]
    Throughput(LoadArgs),
    /// Measure how long requests take, without HTTP: first token, each token, the whole, with percentiles.
    #[command(after_help = LOAD_EXAMPLES)]
    Latency(LoadArgs),
    /// Measure any OpenAI-compatible server, at fixed concurrency or at random arrivals.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(BenchServeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The model: a folder, a .gguf or .tar.gz file, a hub id or a folder on S3.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Requests that run together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch: u32,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) input_len: u32,
    /// Tokens of the shortest prompt; lengths are spread evenly from it to --input-len [default: all alike]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) shortest_input: Option<u32>,
    /// Tokens each request generates [default: 64]; only for models that generate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) output_len: Option<u32>,
    /// Measured runs [default: 5 for throughput, 20 for latency]; one of throughput repeats its requests for 0.1 s
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: Option<u32>,
    /// Runs before the measured ones [default: 1 for throughput, 2 for latency]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) warmup: Option<u32>,
    /// Seed of the prompts
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Write everything measured to FILE; - is standard output, without the table
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Endpoint {
    /// /v1/completions, prompts as token ids
    Completions,
    /// /v1/chat/completions
    Chat,
    /// /v1/embeddings, inputs as token ids
    Embeddings,
    /// /classify, inputs as token ids
    Classify,
    /// /v1/rerank
    Rerank,
}

#[derive(Debug, Args)]
pub(crate) struct BenchServeArgs {
    /// The server, with or without /v1
    #[arg(long, value_name = "URL")]
    pub(crate) url: String,
    /// What to ask for
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Endpoint::Completions)]
    pub(crate) endpoint: Endpoint,
    /// The model [default: the server's only one]
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Requests in flight; several numbers are measured one after the other [default: 8]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=65_536), conflicts_with = "rate")]
    pub(crate) concurrency: Vec<u32>,
    /// Requests a second on average, at random times (Poisson), however slow the answers are; several numbers are measured one after the other
    #[arg(long, value_name = "R", value_delimiter = ',', value_parser = rate)]
    pub(crate) rate: Vec<f64>,
    /// Requests of each measurement
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) requests: u32,
    /// Requests before the first measurement
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    pub(crate) warmup: u32,
    /// Tokens of each prompt or input; for rerank of each query with one document
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) input_len: u32,
    /// Send words instead of token ids, so that the server's tokenizer has work
    #[arg(long)]
    pub(crate) words: bool,
    /// Tokens each request generates [default: 64]; only where the endpoint generates
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) output_len: Option<u32>,
    /// Documents of each rerank request [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) documents: Option<u32>,
    /// Token ids that prompts are made of: the first and the one after the last
    #[arg(long, value_name = "A..B", default_value = "300..1300", value_parser = ids)]
    pub(crate) token_ids: std::ops::Range<u32>,
    /// Limits in ms that a request must keep to count as good
    #[arg(long, value_name = "ttft:MS,tpot:MS,e2e:MS")]
    pub(crate) goodput: Option<Goodput>,
    /// Seconds after which a request counts as failed
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) timeout: u32,
    /// Open a connection for each request: some servers close one that is kept just when the next request is on its way
    #[arg(long)]
    pub(crate) new_connections: bool,
    /// Seed of prompts and arrivals
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Write everything measured to FILE; - is standard output, without the table
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
}

/// Limits that a good request keeps, in ms; none: not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Goodput {
    pub(crate) ttft: Option<f64>,
    pub(crate) tpot: Option<f64>,
    pub(crate) e2e: Option<f64>,
}

impl FromStr for Goodput {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut limits = Self::default();
        for part in text.split(',') {
            let (name, ms) = part.split_once(':').unwrap_or((part, ""));
            let limit = match name.trim() {
                "ttft" => &mut limits.ttft,
                "tpot" => &mut limits.tpot,
                "e2e" => &mut limits.e2e,
                _ => {
                    return Err(format!("`{name}` is not one of ttft, tpot, e2e"));
                }
            };
            let ms =
                positive(ms).ok_or_else(|| format!("`{part}`: expected {name}:MILLISECONDS"))?;
            if limit.replace(ms).is_some() {
                return Err(format!("`{name}` is given twice"));
            }
        }
        Ok(limits)
    }
}

fn positive(text: &str) -> Option<f64> {
    let number: f64 = text.trim().parse().ok()?;
    (number > 0.0 && number.is_finite()).then_some(number)
}

fn rate(text: &str) -> Result<f64, String> {
    let read = positive(text).filter(|rate| (1e-6..=1e6).contains(rate));
    read.ok_or_else(|| "expected requests a second, from 0.000001 to 1000000".to_owned())
}

fn ids(text: &str) -> Result<std::ops::Range<u32>, String> {
    let read = || {
        let (first, end) = text.split_once("..")?;
        let range = first.trim().parse().ok()?..end.trim().parse().ok()?;
        (range.start < range.end).then_some(range)
    };
    read().ok_or_else(|| "expected two numbers such as 300..1300, the smaller first".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_by_name() {
        let check = |text: &str, expected: Result<[Option<f64>; 3], &str>| {
            let found = text.parse::<Goodput>();
            let found = found.map(|limits| [limits.ttft, limits.tpot, limits.e2e]);
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected), "{text}"),
                Err(part) => assert!(found.unwrap_err().contains(part), "{text}"),
            }
        };
        check("ttft:200,tpot:50", Ok([Some(200.0), Some(50.0), None]));
        check(" e2e:0.5", Ok([None, None, Some(0.5)]));
        check("itl:5", Err("`itl`"));
        check("ttft", Err("ttft:MILLISECONDS"));
        check("ttft:-1", Err("ttft:-1"));
        check("ttft:1,ttft:2", Err("twice"));
        check("", Err("not one of"));
    }

    #[test]
    fn rates_and_ids_have_bounds() {
        assert_eq!(rate("0.5"), Ok(0.5));
        assert_eq!(ids("3..9"), Ok(3..9));
        for wrong in ["0", "-1", "inf", "nan", "x", "1e7", "1e-20"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        for wrong in ["9..3", "3..3", "3", "a..b", "-1..3"] {
            assert!(ids(wrong).is_err(), "{wrong}");
        }
    }
}
