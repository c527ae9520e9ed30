//! Heads of GGUF files that lie: each is refused with a message, and what reading it allocates is bounded by what the file
//! has, not by what it claims; nor does a load make much of a vocabulary that no model has.

use koma_models::gguf::Gguf;
use koma_models::{LoadOptions, Source, load};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// Counts the bytes that each thread holds, and the most that it held.
struct Counting;

thread_local! {
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

fn count(change: impl FnOnce(usize) -> usize) {
    // A thread that ends frees its own cell's neighbours: not counted.
    let _ = HELD.try_with(|cell| {
        let (held, most) = cell.get();
        let held = change(held);
        cell.set((held, most.max(held)));
    });
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|held| held + layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(|held| held.saturating_sub(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `run` gives, and the most bytes that it held at a time.
fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(|cell| {
        let (held, _) = cell.get();
        cell.set((held, held));
        held
    });
    let result = run();
    let most = HELD.with(|cell| cell.get().1);
    (result, most - before)
}

fn parse(bytes: &[u8]) -> (Result<Gguf, String>, usize) {
    let (result, most) = peak(|| Gguf::parse(Path::new("a.gguf"), bytes));
    (result.map_err(|e| e.to_string()), most)
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat()
}

/// A head of `keys` pairs and `tensors` entries; the counts are claims.
fn head((tensors, keys): (u64, u64), rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    bytes.extend(rest.concat());
    bytes
}

fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(name), &kind.to_le_bytes()[..], value].concat()
}

fn array(kind: u32, count: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    for size in dims {
        bytes.extend(size.to_le_bytes());
    }
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// Claims that a file of 100 MiB of nothing seems to have room for.
const LARGE: usize = 100 << 20;

/// What a message must name, and the head.
fn lies() -> Vec<(&'static str, Vec<u8>)> {
    let many = LARGE as u64;
    vec![
        ("number of tensors", head((many / 32 - 8, 0), &[])),
        ("number of tensors", head((u64::MAX, 0), &[])),
        ("number of keys", head((0, many / 13 - 8), &[])),
        ("number of keys", head((0, u64::MAX), &[])),
        (
            "name",
            head(
                (0, 1),
                &[&text("name"), &8u32.to_le_bytes(), &many.to_le_bytes()],
            ),
        ),
        (
            "name",
            head(
                (0, 1),
                &[&text("name"), &8u32.to_le_bytes(), &u64::MAX.to_le_bytes()],
            ),
        ),
        (
            "bytes",
            head((0, 1), &[&key("bytes", 9, &array(0, many - 100))]),
        ),
        (
            "words",
            head((0, 1), &[&key("words", 9, &array(8, many / 8 - 16))]),
        ),
        (
            "words",
            head((0, 1), &[&key("words", 9, &array(8, u64::MAX))]),
        ),
        (
            "nest",
            head(
                (0, 1),
                &[
                    &key("nest", 9, &array(9, many / 12 - 16)),
                    &array(9, many / 12 - 99),
                    &array(9, 1),
                    &array(9, 1),
                ],
            ),
        ),
        (
            "wide",
            head((1, 0), &[&tensor("wide", &[1 << 63, 1 << 63], 0, 0)]),
        ),
        (
            "wide",
            head((1, 0), &[&tensor("wide", &[1 << 20, 1 << 20], 12, 0)]),
        ),
        (
            "far",
            head((1, 0), &[&tensor("far", &[256], 12, u64::MAX - 31)]),
        ),
        ("dims", head((1, 0), &[&tensor("dims", &[1; 5], 0, 0)])),
        (
            "tail",
            head(
                (1, 1),
                &[
                    &key("general.alignment", 4, &(1u32 << 20).to_le_bytes()),
                    &tensor("tail", &[many], 0, 0),
                ],
            ),
        ),
    ]
}

#[test]
fn a_head_that_claims_much_costs_little() {
    for (word, mut lie) in lies() {
        let short = lie.len();
        for len in [short, LARGE] {
            lie.resize(len, 0);
            let (result, most) = parse(&lie);
            let message = result.map(|_| ()).unwrap_err();
            assert!(
                message.contains(word) && message.contains("a.gguf"),
                "{word}: {message}"
            );
            // Room for the first elements of each level of an array, and for a message.
            assert!(most < 1 << 20, "{word}: {most} bytes for {short} of {len}");
        }
    }
}

/// A file of so many control tokens, and an embedding with so many rows, which is a hole in the file; and the bytes of its head.
fn vocabulary(folder: &Path, tokens: u64, rows: u64) -> std::io::Result<(PathBuf, usize)> {
    let string = |name: &str, value: &str| key(name, 8, &text(value));
    let texts = (0..tokens).flat_map(|i| text(&format!("<{i}>")));
    let strings: Vec<u8> = array(8, tokens).into_iter().chain(texts).collect();
    let control = 3u32.to_le_bytes().repeat(tokens as usize);
    let types = [array(5, tokens), control].concat();
    let mut bytes = head(
        (1, 6),
        &[
            &string("general.architecture", "llama"),
            &string("tokenizer.ggml.model", "gpt2"),
            &string("tokenizer.ggml.pre", "gpt-2"),
            &key("tokenizer.ggml.tokens", 9, &strings),
            &key("tokenizer.ggml.token_type", 9, &types),
            &key("tokenizer.ggml.merges", 9, &array(8, 0)),
            &tensor("token_embd.weight", &[32, rows], 0, 0),
        ],
    );
    let len = bytes.len();
    bytes.resize(len.next_multiple_of(32), 0);
    let path = folder.join("a.gguf");
    std::fs::write(&path, &bytes)?;
    let file = std::fs::OpenOptions::new().write(true).open(&path)?;
    let data = 32 * 4 * rows;
    file.set_len(bytes.len() as u64 + data)?;
    Ok((path, len))
}

/// The automaton that finds tokens which are matched whole takes many times what they take in the head.
#[test]
fn a_vocabulary_that_no_model_has_costs_little() {
    let folder = tempfile::tempdir().unwrap();
    for (tokens, rows, words) in [
        (200_000, 8, ["200000 tokens", "8 rows"]),
        (70_000, 70_000, ["70000 tokens", "more than 65536"]),
        (
            1_100_000,
            1_100_000,
            ["1100000 tokens", "more than 1048576"],
        ),
    ] {
        let (path, len) = vocabulary(folder.path(), tokens, rows).unwrap();
        let source = Source::parse(path.to_str().unwrap()).unwrap();
        let (result, most) = peak(|| load(&source, &LoadOptions::default()));
        let message = result.map(|_| ()).unwrap_err().to_string();
        for word in words.iter().chain(&["tokenizer.ggml.to"]) {
            assert!(message.contains(word), "{word}: {message}");
        }
        assert!(most < 16 * len, "{tokens}: {most} bytes for {len}");
    }
}

/// Names that a file has for tensors and keys do not fill the log.
#[test]
fn long_names_are_not_repeated() {
    let long = "n".repeat(1 << 20);
    for bytes in [
        head((1, 0), &[&tensor(&long, &[32], 0, 0)]),
        head((1, 0), &[&tensor(&long[..64], &[32], 0, 0)]),
        head((0, 1), &[&key(&long[..60_000], 99, &[0])]),
    ] {
        let message = parse(&bytes).0.map(|_| ()).unwrap_err();
        assert!(message.len() < 3000, "{} letters", message.len());
    }
    let name = [key("general.architecture", 8, &text(&long))];
    let mut bytes = head((1, 1), &[&name[0], &tensor("n", &[32], 0, 0)]);
    bytes.resize(bytes.len().next_multiple_of(32) + 128, 0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    std::fs::write(&path, &bytes).unwrap();
    let source = Source::parse(path.to_str().unwrap()).unwrap();
    let message = load(&source, &LoadOptions::default())
        .map(|_| ())
        .unwrap_err();
    assert!(message.to_string().len() < 3000);
}

/// The counter counts: a head that really has much takes more than the bound above.
#[test]
fn the_counter_sees_what_is_held() {
    let words = text("word").repeat(100_000);
    let whole = head((0, 1), &[&key("words", 9, &array(8, 100_000)), &words]);
    let (result, most) = parse(&whole);
    assert!(result.is_ok());
    assert!(most > 2 << 20, "{most}");
    assert!(most < 8 * whole.len(), "{most} for {}", whole.len());
}

/// A small file with a value of every type, arrays in arrays, and tensors of three types.
fn small() -> Vec<u8> {
    let words = [array(8, 2), text("a"), text("漫画")].concat();
    let nest = [
        array(9, 2),
        array(0, 3),
        vec![1, 2, 3],
        array(7, 1),
        vec![1],
    ]
    .concat();
    let mut bytes = head(
        (3, 8),
        &[
            &key("general.alignment", 4, &32u32.to_le_bytes()),
            &key("split.count", 2, &1u16.to_le_bytes()),
            &key("eps", 6, &0.5f32.to_le_bytes()),
            &key("big", 10, &u64::MAX.to_le_bytes()),
            &key("yes", 7, &[1]),
            &key("name", 8, &text("koma")),
            &key("words", 9, &words),
            &key("nest", 9, &nest),
            &tensor("k", &[256, 2], 12, 0),
            &tensor("q", &[32, 2], 8, 288),
            &tensor("n", &[4], 0, 384),
        ],
    );
    bytes.resize(bytes.len().next_multiple_of(32) + 400, 0);
    bytes
}

/// One change of a file: cut, or bytes at a place overwritten, put in or taken out.
#[derive(Debug, Clone)]
enum Change {
    Cut(usize),
    Put(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let place = 0usize..2000;
    let word = prop_oneof![
        any::<u64>().prop_map(|v| v.to_le_bytes().to_vec()),
        (0u32..64).prop_map(|bit| (1u64 << bit).to_le_bytes().to_vec()),
        (0u32..14).prop_map(|kind| kind.to_le_bytes().to_vec()),
        any::<u8>().prop_map(|b| vec![b]),
    ];
    prop_oneof![
        1 => place.clone().prop_map(Change::Cut),
        6 => (place.clone(), word.clone()).prop_map(|(at, v)| Change::Put(at, v)),
        1 => (place.clone(), word).prop_map(|(at, v)| Change::Insert(at, v)),
        1 => (place, 1usize..40).prop_map(|(at, n)| Change::Remove(at, n)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let within = |at: usize| at % (bytes.len() + 1);
    match change {
        Change::Cut(at) => bytes.truncate(within(*at)),
        Change::Put(at, value) => {
            let at = within(*at);
            let n = value.len().min(bytes.len() - at);
            bytes[at..at + n].copy_from_slice(&value[..n]);
        }
        Change::Insert(at, value) => {
            let at = within(*at);
            bytes.splice(at..at, value.iter().copied());
        }
        Change::Remove(at, n) => {
            let at = within(*at);
            let end = (at + n).min(bytes.len());
            bytes.drain(at..end);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed: never a panic, tensors inside of the file and apart, and memory within a bound of its size.
    #[test]
    fn no_change_panics_or_costs_much(changes in prop::collection::vec(change(), 1..5)) {
        let mut bytes = small();
        for change in &changes {
            apply(&mut bytes, change);
        }
        let (result, most) = parse(&bytes);
        prop_assert!(most <= 16 * bytes.len() + (1 << 14), "{most} bytes for {}", bytes.len());
        if let Ok(gguf) = result {
            let mut ranges: Vec<_> = gguf.tensors.values().map(|t| t.range.clone()).collect();
            ranges.sort_by_key(|range| range.start);
            prop_assert!(ranges.iter().all(|range| range.end <= bytes.len()));
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}

#[test]
fn the_unchanged_file_is_read() {
    let gguf = parse(&small()).0.unwrap();
    assert_eq!(gguf.tensors.len(), 3);
}
