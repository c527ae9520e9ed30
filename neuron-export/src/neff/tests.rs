use super::*;
use crate::manifest::tests::sample;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

/// The bytes of a NEFF whose archive has these files.
pub(crate) fn neff(files: &[(&str, &str)], compressed: bool) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive
            .append_data(&mut header, name, text.as_bytes())
            .unwrap();
    }
    let mut data = archive.into_inner().unwrap();
    if compressed {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&data).unwrap();
        data = encoder.finish().unwrap();
    }
    let mut header = vec![0; HEADER as usize];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(8, &HEADER.to_le_bytes());
    put(16, &(data.len() as u64).to_le_bytes());
    put(24, &2u64.to_le_bytes());
    put(32, &1u64.to_le_bytes());
    put(40, b"2.28.7631.0");
    put(168, &1u32.to_le_bytes());
    put(172, &[0xab; 32]);
    put(204, &[0x01; 16]);
    put(544, &0x8000_0000_0000_0005u64.to_le_bytes());
    put(220, b"model.neff");
    put(552, &1u32.to_le_bytes());
    [header, data].concat()
}

/// A `def.json` with inputs and outputs of these names, and variables of other kinds.
pub(crate) fn definition(inputs: &[&str], outputs: &[&str]) -> String {
    let mut var = serde_json::Map::new();
    var.insert(
        "SB".to_owned(),
        serde_json::json!({"type": "state-buffer", "var_id": 0}),
    );
    var.insert(
        "w".to_owned(),
        serde_json::json!({"type": "file", "file_name": "w.npy"}),
    );
    for (names, kind) in [(inputs, "input"), (outputs, "output")] {
        for name in names {
            let size = serde_json::json!({"type": kind, "var_id": 1, "size": 64});
            var.insert((*name).to_owned(), size);
        }
    }
    serde_json::json!({"name": "definition", "dma_queue": {}, "var": var}).to_string()
}

fn read(bytes: &[u8]) -> Result<Neff, NeffError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b1_s32.neff");
    std::fs::write(&path, bytes).unwrap();
    Neff::read(&path)
}

#[test]
fn header_and_variables_are_read_of_both_kinds_of_archive() {
    let text = definition(&["input0", "input1"], &["output0"]);
    for compressed in [false, true] {
        let bytes = neff(&[("info.json", "{}"), ("sg00/def.json", &text)], compressed);
        let found = read(&bytes).unwrap();
        assert_eq!(found.version, [2, 1]);
        assert_eq!((found.num_tpb, found.lnc_size), (1, 1));
        assert_eq!(found.name, "model.neff");
        assert_eq!(found.build, "2.28.7631.0");
        assert_eq!(found.hash, "ab".repeat(32));
        assert_eq!(found.uuid, "01".repeat(16));
        assert_eq!(found.feature_bits, 0x8000_0000_0000_0005);
        assert_eq!(found.data_bytes + HEADER, bytes.len() as u64);
        let variables = found.variables.unwrap();
        assert_eq!(Vec::from_iter(variables.inputs), ["input0", "input1"]);
        assert_eq!(Vec::from_iter(variables.outputs), ["output0"]);
    }
    let bare = read(&neff(&[("info.json", "{}")], true)).unwrap();
    assert_eq!(bare.variables, None);
}

#[test]
fn what_is_no_neff_is_refused() {
    let whole = neff(&[("sg00/def.json", "{}")], false);
    let changed = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        bytes
    };
    let cut = whole[..whole.len() - 1].to_vec();
    let bad_json = neff(&[("nc0/sg00/def.json", "{")], false);
    for (bytes, part) in [
        (whole[..1000].to_vec(), "less than a NEFF's header"),
        (cut, "the header says 1024 +"),
        (changed(8, 1), "the header says that it has"),
        (changed(16, 7), "the header says 1024 +"),
        (changed(23, 255), "the header says 1024 +"),
        (changed(1024 + 150, b'9'), "the archive behind the header"),
        (bad_json, "the archive behind the header"),
    ] {
        let error = read(&bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(error.contains("b1_s32.neff"), "{error}");
    }
    assert!(read(&whole).is_ok());
}

#[test]
fn names_are_numbers_or_the_manifests_own() {
    let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Two inputs, one weight, one output.
    let manifest = sample(folder.path(), source.path());
    let path = Path::new("m.neff");
    let io = |inputs: &[&str], outputs: &[&str]| {
        let text = definition(inputs, outputs);
        let found = read(&neff(&[("sg00/def.json", &text)], false)).unwrap();
        found.io(path, &manifest).map_err(|error| error.to_string())
    };
    let numbered = io(&["input1", "input0", "input2"], &["output0"]).unwrap();
    assert_eq!(numbered["input_ids"], "input0");
    assert_eq!(numbered["attention_mask"], "input1");
    assert_eq!(numbered["a.weight"], "input2");
    assert_eq!(numbered["logits"], "output0");
    let own = io(&["a.weight", "attention_mask", "input_ids"], &["logits"]).unwrap();
    assert_eq!(own["attention_mask"], "attention_mask");
    let unlisted = read(&neff(&[], false)).unwrap();
    assert_eq!(unlisted.io(path, &manifest).unwrap(), numbered);
    for (inputs, outputs, part) in [
        (
            &["input0", "input1"][..],
            &["output0"][..],
            "input0 to input2",
        ),
        (
            &["input0", "input1", "input2", "input3"],
            &["output0"],
            "input3",
        ),
        (&["a", "b", "c"], &["output0"], "attention_mask"),
        (
            &["input0", "input1", "input2"],
            &["c"],
            "output0 to output0",
        ),
    ] {
        let error = io(inputs, outputs).unwrap_err();
        assert!(error.contains(part) && error.contains("m.neff"), "{error}");
    }
}
