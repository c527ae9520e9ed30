//! Answers of the server as text for people.

use crate::output::clip;
use serde_json::Value;
use std::fmt::Write;

/// Characters of a text that stand for it.
const SHOWN: usize = 72;

/// The classes of each text, the best first, or what is in it, from left to right; with several texts, each above its own.
pub(super) fn classified(reply: &Value, texts: &[String], labels: &[String]) -> String {
    let mut out = String::new();
    for (entry, text) in list(&reply["data"]).iter().zip(texts) {
        if texts.len() > 1 {
            line(&mut out, &clip(text, SHOWN));
        }
        let indent = if texts.len() > 1 { "  " } else { "" };
        for found in list(&entry["entities"]) {
            line(&mut out, &format!("{indent}{}", entity(found)));
        }
        let mut rows: Vec<(usize, f64)> = numbers(&entry["probs"]).enumerate().collect();
        rows.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        for (index, value) in rows {
            let number = index.to_string();
            let label = labels.get(index).unwrap_or(&number);
            line(&mut out, &format!("{indent}{value:>8.4}  {label}"));
        }
    }
    out
}

/// Score, label, place and word of a part of a text.
fn entity(found: &Value) -> String {
    let score = found["score"].as_f64().unwrap_or_default();
    let label = found["entity_group"].as_str().or(found["entity"].as_str());
    let (label, word) = (label.unwrap_or_default(), found["word"].as_str());
    let (start, end) = (&found["start"], &found["end"]);
    let word = clip(word.unwrap_or_default(), SHOWN);
    format!("{score:>8.4}  {label}  {start}..{end}  {word}")
}

/// Documents with their scores and numbers (from 0, as in the JSON), the best first.
pub(super) fn ranked(reply: &Value, texts: &[String]) -> String {
    let documents = texts.get(1..).unwrap_or_default();
    let mut out = String::new();
    for entry in list(&reply["results"]) {
        let index = entry["index"].as_u64().unwrap_or_default() as usize;
        let score = entry["relevance_score"].as_f64().unwrap_or_default();
        let text = documents.get(index).map_or("", String::as_str);
        let shown = clip(text, SHOWN);
        line(&mut out, &format!("{score:>8.4}  {index:>3}  {shown}"));
    }
    out
}

/// One vector a line, its numbers separated by spaces.
pub(super) fn vectors(reply: &Value) -> String {
    let mut out = String::new();
    for entry in list(&reply["data"]) {
        let numbers: Vec<String> = list(&entry["embedding"])
            .iter()
            .map(ToString::to_string)
            .collect();
        line(&mut out, &numbers.join(" "));
    }
    out
}

fn line(out: &mut String, text: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{text}");
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn numbers(value: &Value) -> impl Iterator<Item = f64> + '_ {
    list(value).iter().filter_map(Value::as_f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn classes_come_best_first_under_their_text() {
        let labels = texts(&["buy", "return"]);
        let one = json!({"data": [{"probs": [0.25, 0.75]}]});
        let text = classified(&one, &texts(&["a"]), &labels);
        assert_eq!(text, "  0.7500  return\n  0.2500  buy\n");
        let two = json!({"data": [{"probs": [1.0, 0.0]}, {"probs": [0.5, 0.5]}]});
        let text = classified(&two, &texts(&["a", "b\nc"]), &[]);
        let expected = "a\n    1.0000  0\n    0.0000  1\nb c\n    0.5000  0\n    0.5000  1\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn parts_of_a_text_come_with_their_places() {
        let reply = json!({"data": [{"entities": [
            {"entity_group": "PER", "score": 0.5, "word": "Aiko", "start": 3, "end": 7},
            {"entity": "B-LOC", "score": 1.0, "index": 4, "word": "Kyoto", "start": 11, "end": 16},
        ]}]});
        let expected = "  0.5000  PER  3..7  Aiko\n  1.0000  B-LOC  11..16  Kyoto\n";
        assert_eq!(
            classified(&reply, &texts(&["I, Aiko in Kyoto"]), &[]),
            expected
        );
    }

    #[test]
    fn documents_come_in_the_order_of_the_answer_with_their_numbers() {
        let reply = json!({"results": [
            {"index": 1, "relevance_score": 0.5},
            {"index": 0, "relevance_score": -1.25},
        ]});
        let text = ranked(&reply, &texts(&["query", "first", "second"]));
        assert_eq!(text, "  0.5000    1  second\n -1.2500    0  first\n");
    }

    #[test]
    fn a_vector_is_a_line_of_its_numbers() {
        let reply = json!({"data": [{"embedding": [0.1, -2.0]}, {"embedding": [1e-7]}]});
        assert_eq!(vectors(&reply), "0.1 -2.0\n1e-7\n");
    }
}
