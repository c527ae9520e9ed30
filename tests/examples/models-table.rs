//! Prints `docs/models.md`: `cargo run -p koma-tests --example models-table > docs/models.md`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    let page = koma_tests::models_table::render().map_err(std::io::Error::other)?;
    std::io::stdout().write_all(page.as_bytes())
}
