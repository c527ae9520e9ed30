//! An HTTP server on the loopback for tests: answers what a function says, and remembers what it was asked.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A request without its body.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: String,
    /// With the query.
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    /// First and last byte asked for.
    pub(super) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// `text` without percent-encoding.
#[cfg(feature = "s3")]
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let code = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        let (byte, length) = match (byte, code) {
            (b'%', Some(code)) => (code, 2),
            _ => (byte, 0),
        };
        bytes.push(byte);
        rest = &after[length..];
    }
    String::from_utf8(bytes).unwrap()
}

/// Lets nobody through until so many have come.
pub(super) struct Gate {
    count: Mutex<usize>,
    changed: Condvar,
    wanted: usize,
}

impl Gate {
    pub(super) fn of(wanted: usize) -> Self {
        Self {
            count: Mutex::new(0),
            changed: Condvar::new(),
            wanted,
        }
    }

    /// False: the others did not come.
    pub(super) fn pass(&self) -> bool {
        let mut count = self.count.lock().unwrap();
        *count += 1;
        self.changed.notify_all();
        let waited = self
            .changed
            .wait_timeout_while(count, Duration::from_mins(1), |n| *n < self.wanted);
        !waited.unwrap().1.timed_out()
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The connection breaks after so many bytes of the body.
    cut: Option<usize>,
}

impl Answer {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            status,
            body,
            ..Self::default()
        }
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn cut(self, at: usize) -> Self {
        Self {
            cut: Some(at),
            ..self
        }
    }

    /// The part of `whole` that was asked for, or all of it.
    pub(super) fn of(asked: &Asked, whole: &[u8]) -> Self {
        match asked.range() {
            Some((first, last)) if first < whole.len() => {
                let last = last.min(whole.len() - 1);
                let range = format!("bytes {first}-{last}/{}", whole.len());
                Self::new(206, &whole[first..=last]).with("Content-Range", &range)
            }
            _ => Self::new(200, whole),
        }
    }
}

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

/// Runs until the process ends.
pub(super) struct Stub {
    pub(super) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    pub(super) fn start(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let handler: Arc<Handler> = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, handler) = (Arc::clone(&seen), Arc::clone(&handler));
                std::thread::spawn(move || serve(stream, &seen, &*handler));
            }
        });
        Self { url, asked }
    }

    /// All requests since the last call.
    pub(super) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Asked>>, handler: &Handler) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let asked = Asked {
        method,
        target,
        headers,
    };
    let length = asked.header("content-length").and_then(|v| v.parse().ok());
    std::io::copy(&mut reader.take(length.unwrap_or(0)), &mut std::io::sink()).ok()?;
    let answer = handler(&asked);
    seen.lock().unwrap().push(asked.clone());
    let mut head = format!("HTTP/1.1 {} Test\r\nConnection: close\r\n", answer.status);
    if !answer
        .headers
        .iter()
        .any(|(name, _)| name == "Content-Length")
    {
        let length = answer.body.len();
        write!(head, "Content-Length: {length}\r\n").ok()?;
    }
    for (name, value) in &answer.headers {
        write!(head, "{name}: {value}\r\n").ok()?;
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    if asked.method != "HEAD" {
        let end = answer
            .cut
            .unwrap_or(answer.body.len())
            .min(answer.body.len());
        stream.write_all(&answer.body[..end]).ok()?;
    }
    Some(())
}
