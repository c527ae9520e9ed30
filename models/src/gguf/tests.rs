//! Damaged and odd files, made byte by byte.

use super::*;

/// A file under construction.
struct Maker {
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn text(s: &str) -> Vec<u8> {
    let mut bytes = (s.len() as u64).to_le_bytes().to_vec();
    bytes.extend(s.as_bytes());
    bytes
}

impl Maker {
    fn new() -> Self {
        Self {
            keys: Vec::new(),
            tensors: Vec::new(),
            data: vec![0; 256],
        }
    }

    fn key(mut self, name: &str, kind: u32, value: &[u8]) -> Self {
        let parts = [&text(name), &kind.to_le_bytes()[..], value];
        self.keys.push(parts.concat());
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let mut bytes = text(name);
        bytes.extend((dims.len() as u32).to_le_bytes());
        for size in dims {
            bytes.extend(size.to_le_bytes());
        }
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        self.tensors.push(bytes);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        bytes.extend(self.keys.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }

    fn parse(&self) -> Result<Gguf, LoadError> {
        Gguf::parse(Path::new("a.gguf"), &self.bytes())
    }

    /// The error of reading it names all of `words`, the file first.
    #[track_caller]
    fn fails(&self, words: &[&str]) {
        let message = self.parse().unwrap_err().to_string();
        assert!(message.contains("a.gguf"), "{message}");
        for word in words {
            assert!(message.contains(word), "`{word}` in: {message}");
        }
    }
}

fn good() -> Maker {
    let numbers = [
        5u32.to_le_bytes().to_vec(),
        2u64.to_le_bytes().to_vec(),
        vec![1, 0, 0, 0, 255, 255, 255, 255],
    ];
    let words = [
        8u32.to_le_bytes().to_vec(),
        2u64.to_le_bytes().to_vec(),
        text("a"),
        text("漫画"),
    ];
    Maker::new()
        .key("count", 4, &7u32.to_le_bytes())
        .key("big", 10, &u64::MAX.to_le_bytes())
        .key("eps", 6, &0.5f32.to_le_bytes())
        .key("nan", 6, &f32::NAN.to_le_bytes())
        .key("yes", 7, &[1])
        .key("name", 8, &text("koma"))
        .key("types", 9, &numbers.concat())
        .key("words", 9, &words.concat())
        .tensor("w", &[32, 2], 8, 0)
        .tensor("n", &[4], 0, 96)
}

#[test]
fn values_are_read_with_their_types() {
    let gguf = good().parse().unwrap();
    let meta = &gguf.meta;
    assert_eq!(meta.get::<u32>("count").unwrap(), 7);
    assert_eq!(meta.get::<usize>("count").unwrap(), 7);
    assert_eq!(meta.get::<f32>("eps").unwrap(), 0.5);
    assert!(meta.get::<bool>("yes").unwrap());
    assert_eq!(meta.get::<&str>("name").unwrap(), "koma");
    assert_eq!(meta.get::<&[i64]>("types").unwrap(), [1, -1]);
    assert_eq!(meta.get::<&[String]>("words").unwrap(), ["a", "漫画"]);
    assert_eq!(meta.find::<u32>("absent").unwrap(), None);
    let w = &gguf.tensors["w"];
    assert_eq!(
        (w.shape.as_slice(), w.format, w.range.len()),
        (&[2, 32][..], Format::Q8_0, 68)
    );
    assert_eq!(gguf.tensors["n"].range.start - w.range.start, 96);

    for (key, error) in [
        ("absent", meta.get::<u32>("absent").unwrap_err()),
        ("big", meta.get::<u32>("big").unwrap_err()),
        ("name", meta.get::<u32>("name").unwrap_err()),
        ("nan", meta.get::<f32>("nan").unwrap_err()),
        ("words", meta.get::<&[i64]>("words").unwrap_err()),
    ] {
        let message = error.to_string();
        assert!(message.contains(&format!("field `{key}`")), "{message}");
    }
}

/// An f64 that is infinite as an f32.
#[test]
fn numbers_that_f32_cannot_hold_are_refused() {
    let large = Maker::new().key("eps", 12, &1e300f64.to_le_bytes());
    let meta = large.parse().unwrap().meta;
    assert!(meta.get::<f32>("eps").is_err());
}

#[test]
fn what_is_wrong_is_named() {
    let array = |kind: u32, count: u64| {
        [kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat()
    };
    good().key("count", 7, &[1]).fails(&["`count`", "twice"]);
    good().key("maybe", 7, &[2]).fails(&["`maybe`", "boolean"]);
    good().key("odd", 13, &[]).fails(&["`odd`", "13"]);
    good()
        .key("latin", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xe9])
        .fails(&["`latin`", "UTF-8"]);
    good()
        .key("many", 9, &array(0, 1 << 60))
        .fails(&["`many`", "cut off"]);
    good()
        .key("nest", 9, &array(9, 1).repeat(9))
        .fails(&["`nest`", "nested"]);
    good()
        .key("general.alignment", 4, &48u32.to_le_bytes())
        .fails(&["general.alignment", "48"]);
    good()
        .key("one byte each", 9, &array(0, (1 << 23) + 1))
        .fails(&["`one byte each`", "cut off"]);
    good().tensor("w", &[1], 0, 192).fails(&["`w`", "twice"]);
    good().tensor("k", &[256], 9, 192).fails(&["`k`", "Q8_1"]);
    good()
        .tensor("k", &[128], 12, 192)
        .fails(&["`k`", "blocks of 256", "Q4_K"]);
    good()
        .tensor("d", &[1; 5], 0, 192)
        .fails(&["`d`", "5 dimensions"]);
    good()
        .tensor("z", &[0, 4], 0, 192)
        .fails(&["`z`", "dimension of 0"]);
    good()
        .tensor("b", &[33], 8, 192)
        .fails(&["`b`", "blocks of 32"]);
    good()
        .tensor("huge", &[1 << 40, 1 << 40], 0, 192)
        .fails(&["`huge`", "memory"]);
    good()
        .tensor("far", &[1], 0, u64::MAX - 31)
        .fails(&["`far`"]);
    good()
        .tensor("end", &[64], 0, 192)
        .fails(&["`end`", "cut off"]);
    good()
        .tensor("skew", &[1], 0, 100)
        .fails(&["`skew`", "multiple of 32"]);
    good().tensor("over", &[1], 0, 64).fails(&["overlaps"]);
}

#[test]
fn other_files_and_byte_orders_are_refused() {
    let mut big = good().bytes();
    big[4..8].copy_from_slice(&3u32.to_be_bytes());
    let message = Gguf::parse(Path::new("a.gguf"), &big)
        .unwrap_err()
        .to_string();
    assert!(message.contains("big-endian"), "{message}");
    assert!(Gguf::parse(Path::new("a.gguf"), b"").is_err());
    assert!(Gguf::parse(Path::new("a.gguf"), b"PK\x03\x04").is_err());
}

/// Cut at any byte it is an error; with any byte changed it is an error or another file, never a panic.
#[test]
fn no_cut_and_no_flip_panics() {
    let bytes = good().bytes();
    let path = Path::new("a.gguf");
    let data = bytes.len() - 256;
    for len in 0..data + 112 {
        assert!(Gguf::parse(path, &bytes[..len]).is_err(), "cut to {len}");
    }
    assert!(
        Gguf::parse(path, &bytes[..data + 112]).is_ok(),
        "the control"
    );
    let mut errors = 0;
    for at in 0..data {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            errors += usize::from(Gguf::parse(path, &changed).is_err());
        }
    }
    assert!(errors > data, "{errors}");
}
