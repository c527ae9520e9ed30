//! [`Neff`]: what can be read of a compiled module without a device: its header, and the names of its inputs and outputs.
//!
//! The layout is that of AWS's guide "Work with NEFF files": a header of 1024 bytes, then a tar archive, compressed or not, whose
//! `sg00/def.json` lists variables. It was read from the documents alone: no NEFF of a real compiler has been seen here.

use crate::manifest::Manifest;
use flate2::read::GzDecoder;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes of the header.
pub const HEADER: u64 = 1024;
/// Largest `def.json` that is read.
const MAX_DEFINITION: u64 = 1 << 30;
/// How every gzip file begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Why a file is no NEFF, or not the right one.
#[derive(Debug, thiserror::Error)]
pub enum NeffError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}: {reason}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What.
        reason: String,
    },
}

/// The facts about a NEFF. See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neff {
    /// Major and minor version of the format.
    pub version: [u64; 2],
    /// Bytes behind the header.
    pub data_bytes: u64,
    /// What the compiler says of itself.
    pub build: String,
    /// Of the content, as the compiler computed it; hexadecimal.
    pub hash: String,
    /// Hexadecimal.
    pub uuid: String,
    /// What it asks of the runtime, as bits that are not documented.
    pub feature_bits: u64,
    /// Processing blocks that it needs.
    pub num_tpb: u32,
    /// Physical cores that make a logical one.
    pub lnc_size: u32,
    /// The name in the header, as text.
    pub name: String,
    /// Inputs and outputs; none if the archive has no `def.json` where the documents say.
    pub variables: Option<Variables>,
}

/// Names of inputs and outputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    /// Inputs, weights that are parameters among them.
    pub inputs: BTreeSet<String>,
    /// Outputs.
    pub outputs: BTreeSet<String>,
}

/// A `def.json`, as far as it is read.
#[derive(Deserialize)]
struct Definition {
    #[serde(default)]
    var: BTreeMap<String, Variable>,
}

#[derive(Deserialize)]
struct Variable {
    #[serde(rename = "type", default)]
    kind: String,
}

impl Neff {
    /// Reads header and variables of the file `path`.
    ///
    /// # Errors
    /// [`NeffError`]: not a NEFF, or a part of one.
    pub fn read(path: &Path) -> Result<Self, NeffError> {
        let io = |error| NeffError::Io {
            path: path.to_owned(),
            error,
        };
        let wrong = |reason: String| NeffError::Wrong {
            path: path.to_owned(),
            reason,
        };
        let mut file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        if bytes < HEADER {
            let reason = format!("has {bytes} bytes, less than a NEFF's header of {HEADER}");
            return Err(wrong(reason));
        }
        let mut header = [0; HEADER as usize];
        file.read_exact(&mut header).map_err(io)?;
        let mut neff = Self::of_header(&header, bytes).map_err(wrong)?;
        neff.variables = variables(&mut file)
            .map_err(|error| wrong(format!("the archive behind the header: {error}")))?;
        Ok(neff)
    }

    /// The facts in a header of a file of `bytes` bytes, all numbers little-endian, or what is wrong with it.
    fn of_header(header: &[u8; HEADER as usize], bytes: u64) -> Result<Self, String> {
        let u64_at = |at: usize| {
            (0..8)
                .rev()
                .fold(0, |n, i| n << 8 | u64::from(header[at + i]))
        };
        let u32_at = |at: usize| {
            (0..4)
                .rev()
                .fold(0, |n, i| n << 8 | u32::from(header[at + i]))
        };
        let (header_size, data_bytes) = (u64_at(8), u64_at(16));
        if header_size != HEADER {
            return Err(format!(
                "the header says that it has {header_size} bytes, and NEFF headers have {HEADER}"
            ));
        }
        if header_size.checked_add(data_bytes) != Some(bytes) {
            return Err(format!(
                "the file has {bytes} bytes, the header says {HEADER} + {data_bytes}"
            ));
        }
        let text = |span: std::ops::Range<usize>| {
            let text = header[span].split(|b| *b == 0).next().unwrap_or_default();
            String::from_utf8_lossy(text).into_owned()
        };
        let hex = |span: std::ops::Range<usize>| {
            let digits = header[span].iter().map(|byte| format!("{byte:02x}"));
            digits.collect::<String>()
        };
        Ok(Self {
            version: [u64_at(24), u64_at(32)],
            data_bytes,
            build: text(40..168),
            hash: hex(172..204),
            uuid: hex(204..220),
            feature_bits: u64_at(544),
            num_tpb: u32_at(168),
            lnc_size: u32_at(552),
            name: text(220..476),
            variables: None,
        })
    }

    /// Names in the NEFF by names in the manifest, of inputs, weights and outputs. Compilers number them (`input3` is parameter 3);
    /// names that are the manifest's own are taken as well. Without a list, numbers are assumed; loading on a device compares all
    /// names with those that the runtime reports.
    ///
    /// # Errors
    /// [`NeffError::Wrong`] if there are other names.
    pub fn io(
        &self,
        path: &Path,
        manifest: &Manifest,
    ) -> Result<BTreeMap<String, String>, NeffError> {
        let inputs = manifest.inputs.iter().map(|i| i.name.name().to_owned());
        let inputs: Vec<String> = inputs
            .chain(manifest.numerics.param_order.clone())
            .collect();
        let outputs: Vec<String> = manifest.outputs.iter().map(|o| o.name.clone()).collect();
        let numbered = |names: &[String], kind: &str| -> Vec<(String, String)> {
            let numbers = names.iter().enumerate();
            numbers
                .map(|(i, name)| (name.clone(), format!("{kind}{i}")))
                .collect()
        };
        let own = |names: &[String]| names.iter().map(|n| (n.clone(), n.clone())).collect();
        let mut all = BTreeMap::new();
        for (names, kind) in [(&inputs, "input"), (&outputs, "output")] {
            let found = self.variables.as_ref().map(|found| match kind {
                "input" => &found.inputs,
                _ => &found.outputs,
            });
            let ways: [Vec<(String, String)>; 2] = [numbered(names, kind), own(names)];
            let mut fits = ways.into_iter().filter(|way| {
                let theirs: BTreeSet<&String> = way.iter().map(|(_, name)| name).collect();
                found.is_none_or(|found| found.iter().collect::<BTreeSet<_>>() == theirs)
            });
            let Some(way) = fits.next() else {
                let reason = format!(
                    "its {kind}s are {:?}; expected {kind}0 to {kind}{}, or {names:?}",
                    found.into_iter().flatten().take(8).collect::<Vec<_>>(),
                    names.len() - 1
                );
                let path = path.to_owned();
                return Err(NeffError::Wrong { path, reason });
            };
            all.extend(way);
        }
        Ok(all)
    }
}

/// The variables of the archive behind the header; none if it has no list of them.
fn variables(file: &mut File) -> io::Result<Option<Variables>> {
    let mut begin = [0; 2];
    file.seek(SeekFrom::Start(HEADER))?;
    let compressed = file.read_exact(&mut begin).is_ok() && begin == GZIP;
    file.seek(SeekFrom::Start(HEADER))?;
    let file = io::BufReader::new(file);
    if compressed {
        listed(GzDecoder::new(file))
    } else {
        listed(file)
    }
}

fn listed(archive: impl Read) -> io::Result<Option<Variables>> {
    let mut found = None;
    for entry in tar::Archive::new(archive).entries()? {
        let entry = entry?;
        // `sg00`, and `sg01` for the second core of a logical one.
        let path = entry.path()?.into_owned();
        let graph = path.parent().and_then(Path::file_name);
        let graph = graph.is_some_and(|name| name.to_string_lossy().starts_with("sg"));
        if !graph || !path.ends_with("def.json") {
            continue;
        }
        if entry.size() > MAX_DEFINITION {
            let reason = format!("{} has {} bytes", path.display(), entry.size());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let definition: Definition = serde_json::from_reader(io::BufReader::new(entry))?;
        let all: &mut Variables = found.get_or_insert_default();
        for (name, variable) in definition.var {
            match variable.kind.as_str() {
                "input" => all.inputs.insert(name),
                "output" => all.outputs.insert(name),
                _ => false,
            };
        }
    }
    Ok(found)
}

#[cfg(test)]
pub(crate) mod tests;
