//! Against a naive search over the whole text.

use super::StopStrings;
use proptest::prelude::*;
use std::sync::Arc;

/// Text and stop string by definition: the first place where one is complete, there the longest. The first `uncounted`
/// bytes complete none.
fn naive(
    text: &str,
    stops: &[String],
    include: bool,
    uncounted: usize,
) -> (String, Option<String>) {
    for end in uncounted + 1..=text.len() {
        let complete = stops
            .iter()
            .filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
        if let Some(stop) = complete.max_by_key(|stop| stop.len()) {
            let given = if include { end } else { end - stop.len() };
            return (text[..given].to_owned(), Some(stop.clone()));
        }
    }
    (text.to_owned(), None)
}

fn stops(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

/// Feeds `pieces`, of which the first `uncounted` do not count; gives what came out piece by piece.
fn feed(
    stops: &mut StopStrings,
    pieces: &[&str],
    uncounted: usize,
) -> (Vec<String>, Option<String>) {
    let mut given = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        let mut out = String::new();
        let hit = stops.push(piece, i >= uncounted, &mut out);
        given.push(out);
        if hit.is_some() {
            return (given, hit);
        }
    }
    let mut out = String::new();
    stops.finish(&mut out);
    given.push(out);
    (given, None)
}

fn check(list: &[&str], pieces: &[&str], expected: &[&str], hit: Option<&str>) {
    let (given, got) = feed(&mut StopStrings::new(&stops(list), false), pieces, 0);
    assert_eq!(
        (given, got.as_deref()),
        (stops(expected), hit),
        "{list:?} in {pieces:?}"
    );
}

#[test]
fn text_is_held_back_only_while_it_may_become_a_stop_string() {
    check(
        &["END"],
        &["ab", "E", "N", "x"],
        &["ab", "", "", "ENx", ""],
        None,
    );
    check(
        &["END"],
        &["ab", "E", "N", "Dx"],
        &["ab", "", "", ""],
        Some("END"),
    );
    check(&["END"], &["aEEN"], &["aE", "EN"], None);
    check(&["abab"], &["aba", "c"], &["", "abac", ""], None);
    check(
        &["終わり", "。"],
        &["もう終", "わ", "り!"],
        &["もう", "", ""],
        Some("終わり"),
    );
    check(&[], &["a", ""], &["a", "", ""], None);
    check(&["bc", "abcd"], &["abcd"], &["a"], Some("bc"));
    check(&["cd", "abcd"], &["xabcd"], &["x"], Some("abcd"));
}

#[test]
fn a_stop_string_may_be_part_of_the_text() {
    let mut with = StopStrings::new(&stops(&["END"]), true);
    assert_eq!(
        feed(&mut with, &["aE", "NDb"], 0),
        (stops(&["a", "END"]), Some("END".to_owned()))
    );
}

#[test]
fn clones_share_the_strings_and_not_the_progress() {
    let mut one = StopStrings::new(&stops(&["END"]), false);
    let mut other = one.clone();
    assert!(Arc::ptr_eq(&one.needles, &other.needles));
    let mut out = String::new();
    assert_eq!(one.push("EN", true, &mut out), None);
    assert_eq!(other.push("D", true, &mut out), None);
    assert_eq!(out, "D", "the other has not met EN");
    assert_eq!(one.push("D", true, &mut out), Some("END".to_owned()));
}

#[test]
fn the_search_is_linear() {
    // Every needle nearly matches everywhere: a search that starts again at each place would compare 10^9 bytes.
    let list: Vec<String> = (0..16)
        .map(|i| format!("{}{}", "a".repeat(1023), char::from(b'g' + i)))
        .collect();
    let mut stops = StopStrings::new(&list, false);
    let mut out = String::new();
    assert_eq!(stops.push(&"a".repeat(1 << 20), true, &mut out), None);
    assert_eq!(out.len(), (1 << 20) - 1023);
    assert_eq!(stops.push("v", true, &mut out), Some(list[15].clone()));
}

proptest! {
    #[test]
    fn pieces_give_what_the_whole_gives(
        pieces in prop::collection::vec("[ab終🙂]{0,4}", 0..12),
        list in prop::collection::vec("[ab終]{1,5}", 0..4),
        include: bool,
        uncounted in 0_usize..4,
    ) {
        let text = pieces.concat();
        let uncounted_bytes: usize = pieces.iter().take(uncounted).map(String::len).sum();
        let (expected, hit) = naive(&text, &list, include, uncounted_bytes);
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let (given, got) = feed(&mut StopStrings::new(&list, include), &pieces, uncounted);
        prop_assert_eq!((given.concat(), got), (expected, hit));
    }
}
