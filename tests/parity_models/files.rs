//! Broken files: each ends in an error that names what is wrong with it, none in a panic.

use crate::open;
use koma_models::Dtype;
use koma_tests::golden::root;
use serde_json::Value;

#[test]
fn broken_files_name_what_is_wrong() {
    let folder = root().join("bad");
    let text = std::fs::read_to_string(folder.join("cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 50);
    let mut wrong = Vec::new();
    for case in &cases {
        let (name, why) = (case["path"].as_str().unwrap(), &case["why"]);
        let result = open(&folder.join(name), Dtype::Auto);
        match (&case["any_of"], result) {
            (Value::Null, Ok(_)) => {}
            (Value::Null, Err(e)) => wrong.push(format!("{name} ({why}) must load: {e}")),
            (_, Ok(_)) => wrong.push(format!("{name} ({why}) was loaded")),
            (words, Err(e)) => {
                let message = e.to_string();
                let words = words.as_array().unwrap();
                if !words.iter().any(|w| message.contains(w.as_str().unwrap())) {
                    wrong.push(format!(
                        "{name} ({why}) must name one of {words:?}: {message}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
