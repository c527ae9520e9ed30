//! [`Events`]: server-sent events from bytes that may be cut anywhere, in bounded memory.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>; only `data` matters here.

/// Most bytes of one event.
const LIMIT: usize = 1 << 20;

/// A line or an event is longer than 1 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// What has come of the next event.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    /// Its `data` lines, each with a line feed at its end.
    data: Vec<u8>,
    /// The last byte was a carriage return: a line feed belongs to it.
    returned: bool,
    begun: bool,
}

impl Events {
    /// Takes `bytes`; `event` is called with the data of each event that they complete.
    ///
    /// # Errors
    /// [`TooLong`]; nothing of what follows can be read then.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut event: impl FnMut(&[u8]),
    ) -> Result<(), TooLong> {
        if std::mem::take(&mut self.returned) && bytes.first() == Some(&b'\n') {
            bytes = &bytes[1..];
        }
        while let Some(end) = bytes.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            self.extend(&bytes[..end])?;
            let (returned, rest) = (bytes[end] == b'\r', &bytes[end + 1..]);
            bytes = match rest.first() {
                Some(b'\n') if returned => &rest[1..],
                None => {
                    self.returned = returned;
                    rest
                }
                _ => rest,
            };
            self.end_of_line(&mut event)?;
        }
        self.extend(bytes)
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + self.data.len() + bytes.len() > LIMIT {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_of_line(&mut self, event: &mut impl FnMut(&[u8])) -> Result<(), TooLong> {
        let line = std::mem::take(&mut self.line);
        let first = !std::mem::replace(&mut self.begun, true);
        let mark: &[u8] = if first { b"\xef\xbb\xbf" } else { b"" };
        let text = line.strip_prefix(mark).unwrap_or(&line);
        if text.is_empty() {
            if let Some(data) = self.data.strip_suffix(b"\n") {
                event(data);
            }
            self.data.clear();
        } else if let Some(value) = text.strip_prefix(b"data") {
            let value = match value {
                [] => Some(value),
                [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
                _ => None,
            };
            if let Some(value) = value {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
                self.extend(b"")?;
            }
        }
        self.line = line;
        self.line.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let (mut events, mut found) = (Events::default(), Vec::new());
        for piece in pieces {
            let event = |data: &[u8]| found.push(String::from_utf8_lossy(data).into_owned());
            events.feed(piece, event).unwrap();
        }
        found
    }

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_cut() {
        let text = "\u{feff}: comment\r\ndata: {\"a\": \"é\"}\r\n\r\ndata:two\ndata: lines\nid: 7\n\n\rdata\n\ndatabase: no\n\n\
                    event: x\rdata:  space\r\rdata: [DONE]\n\n";
        let expected = ["{\"a\": \"é\"}", "two\nlines", "", " space", "[DONE]"];
        let bytes = text.as_bytes();
        assert_eq!(read(&[bytes]), expected);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single), expected);
        for cut in 0..bytes.len() {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(read(&[a, b]), expected, "cut at {cut}");
            assert_eq!(read(&[a, b"", b]), expected, "empty piece at {cut}");
        }
    }

    #[test]
    fn an_event_that_is_not_ended_is_none() {
        assert!(read(&[b"data: x\n"]).is_empty());
        assert!(read(&[b"\n\n: ping\n\n"]).is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let feed = |piece: &[u8]| {
            let mut events = Events::default();
            let pieces = LIMIT * 4 / piece.len();
            let ended = (0..pieces).try_for_each(|_| events.feed(piece, |_| ()));
            assert!(events.line.len() + events.data.len() <= LIMIT + 1);
            ended
        };
        assert_eq!(feed(&[b'x'; 4096]), Err(TooLong));
        assert_eq!(feed(b"data: and so on\n"), Err(TooLong));
        assert_eq!(feed(b"data: and so on\n\n"), Ok(()));
        assert_eq!(feed(b": comment\n"), Ok(()));
    }
}
