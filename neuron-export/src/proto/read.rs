//! [`Reader`]: the fields of a message in a file, without holding the file.

use std::io::{self, Read, Seek, SeekFrom};

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// What it holds.
    pub content: Content,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A whole number.
    Int(u64),
    /// Eight bytes or four, which nothing here reads.
    Fixed,
    /// Bytes, a text, a list or a message: from here up to here in the file.
    Span(u64, u64),
}

/// Reads fields, span by span.
pub struct Reader<R> {
    file: R,
    at: u64,
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the fields in `file`.
    ///
    /// # Errors
    /// The file's.
    pub fn new(mut file: R) -> io::Result<Self> {
        let at = file.stream_position()?;
        Ok(Self { file, at })
    }

    /// The length of the file.
    ///
    /// # Errors
    /// The file's.
    pub fn end(&mut self) -> io::Result<u64> {
        let end = self.file.seek(SeekFrom::End(0))?;
        self.file.seek(SeekFrom::Start(self.at))?;
        Ok(end)
    }

    fn go(&mut self, to: u64) -> io::Result<()> {
        if to != self.at {
            let step = to as i64 - self.at as i64;
            self.file.seek_relative(step)?;
            self.at = to;
        }
        Ok(())
    }

    fn varint(&mut self, end: u64) -> io::Result<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            if self.at >= end {
                return Err(damaged("a number is cut off"));
            }
            let mut byte = [0];
            self.file.read_exact(&mut byte)?;
            self.at += 1;
            let bits = u64::from(byte[0] & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(damaged("a number is too long"))
    }

    /// The field at `*at` of a message that ends at `end`, and moves `*at` behind it; none at the end.
    ///
    /// # Errors
    /// If the bytes are no field, or it does not end before `end`.
    pub fn field(&mut self, at: &mut u64, end: u64) -> io::Result<Option<Field>> {
        if *at >= end {
            return Ok(None);
        }
        self.go(*at)?;
        let key = self.varint(end)?;
        let number =
            u32::try_from(key >> 3).map_err(|_| damaged("a field's number is too large"))?;
        let content = match key & 7 {
            0 => Content::Int(self.varint(end)?),
            1 | 5 => {
                let size = if key & 7 == 1 { 8 } else { 4 };
                let to = self.at + size;
                if to > end {
                    return Err(damaged("a field is cut off"));
                }
                self.go(to)?;
                Content::Fixed
            }
            2 => {
                let len = self.varint(end)?;
                let to = self.at.checked_add(len).filter(|to| *to <= end);
                let to = to.ok_or_else(|| damaged("a field is longer than its message"))?;
                *at = to;
                let content = Content::Span(self.at, to);
                return Ok(Some(Field { number, content }));
            }
            _ => return Err(damaged("a field has an unknown kind")),
        };
        *at = self.at;
        Ok(Some(Field { number, content }))
    }

    /// The bytes of a span.
    ///
    /// # Errors
    /// The file's; for more than `most` bytes.
    pub fn bytes(&mut self, (from, to): (u64, u64), most: u64) -> io::Result<Vec<u8>> {
        if to - from > most {
            return Err(damaged("a text or list is too long"));
        }
        self.go(from)?;
        let mut bytes = vec![0; (to - from) as usize];
        self.file.read_exact(&mut bytes)?;
        self.at = to;
        Ok(bytes)
    }

    /// The numbers of a packed list.
    ///
    /// # Errors
    /// The file's; for more than `most` bytes.
    pub fn ints(&mut self, (from, to): (u64, u64), most: u64) -> io::Result<Vec<u64>> {
        if to - from > most {
            return Err(damaged("a text or list is too long"));
        }
        self.go(from)?;
        let mut numbers = Vec::new();
        while self.at < to {
            numbers.push(self.varint(to)?);
        }
        Ok(numbers)
    }
}
