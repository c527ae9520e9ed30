//! `docs/models.md` says what the registry and the fixtures say.

use koma_models::Supported;
use koma_tests::models_table::{Fixture, architectures, formats, render};
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn the_page_of_models_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/models.md");
    let page = std::fs::read_to_string(path).expect("docs/models.md");
    let now = render().expect("everything is proven");
    assert!(
        page == now,
        "docs/models.md is out of date; `cargo run -p koma-tests --example models-table > docs/models.md` makes:\n{now}"
    );
}

fn fixture(gguf: Option<&str>, tests: &[&str]) -> Fixture {
    Fixture {
        case: "new".to_owned(),
        architecture: "NewForCausalLM".to_owned(),
        gguf: gguf.map(str::to_owned),
        formats: BTreeSet::new(),
        tests: tests.iter().map(|t| (*t).to_owned()).collect(),
    }
}

/// The control: what has no fixture, or one that no test reads, cannot be listed.
#[test]
fn nothing_is_listed_without_proof() {
    let new = |gguf: &[&'static str]| Supported {
        name: "NewForCausalLM",
        task: "generate",
        gguf: gguf.to_vec(),
    };
    let (folder, file) = (fixture(None, &["x.rs"]), fixture(Some("new"), &["x.rs"]));
    let proven = architectures(&[new(&["new"])], &[folder.clone(), file]).expect("both are there");
    assert!(
        proven
            .contains("| `NewForCausalLM` | generate | `new` (`x.rs`) | `new` | `new` (`x.rs`) |")
    );
    for (known, fixtures, why) in [
        (
            new(&[]),
            vec![],
            "no fixture in tests/golden proves NewForCausalLM",
        ),
        (
            new(&[]),
            vec![fixture(None, &[])],
            "no test reads the fixture new",
        ),
        (
            new(&["new"]),
            vec![folder],
            "no fixture in tests/golden proves GGUF files of new",
        ),
    ] {
        assert_eq!(
            architectures(&[known], &fixtures).expect_err("no proof"),
            why
        );
    }
    let missing = formats(&[]).expect_err("GGUF types without a file");
    assert!(missing.contains("no fixture"), "{missing}");
}
