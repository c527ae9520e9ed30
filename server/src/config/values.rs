//! [`Values`]: one setting after the other, read from the first layer that has it.

use crate::args::{Layer, Origin, Typed};
use koma_engine::models::kernels::Isa;
use tracing_subscriber::EnvFilter;

/// Layers, the strongest first.
pub(super) struct Values<'a> {
    layers: Vec<&'a Layer>,
}

impl<'a> Values<'a> {
    pub(super) fn new(layers: &[&'a Layer]) -> Self {
        Self {
            layers: layers.to_vec(),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Typed> {
        self.layers.iter().find_map(|layer| layer.get(key))
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).map(|typed| typed.text.as_str())
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number(&self, key: &str, least: u64, most: u64) -> Result<Option<u64>, String> {
        let read = |text: &str| text.parse().ok().filter(|n| (least..=most).contains(n));
        let allowed = || format!("a whole number from {least} to {most}");
        self.read(key, read, allowed)
    }

    /// One of `names`.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        names: &[(&str, T)],
    ) -> Result<Option<T>, String> {
        let read = |text: &str| Some(names.iter().find(|(name, _)| *name == text)?.1);
        let list = || names.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        self.read(key, read, || list().join(", "))
    }

    /// Bytes.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, String> {
        self.read(key, parse_size, || {
            "a size such as 512M or 2GiB: K, M, G, T and KiB, MiB, GiB, TiB count in 1024s, KB, MB, \
             GB, TB in 1000s"
                .to_owned()
        })
    }

    /// The name or address of a network interface.
    pub(super) fn host(&self, key: &str) -> Result<Option<String>, String> {
        let bare = |text: &str| !text.is_empty() && !text.contains(['/', ' ', '\t']);
        let read = |text: &str| bare(text).then(|| text.trim_matches(['[', ']']).to_owned());
        self.read(key, read, || {
            "an address or a host name without port".to_owned()
        })
    }

    /// A CPU path that this processor has; none for `auto`.
    pub(super) fn isa(&self, key: &str) -> Result<Option<Isa>, String> {
        let read = |text: &str| match text {
            "auto" => Some(None),
            name => Isa::named(name).ok().map(Some),
        };
        let here: Vec<&str> = Isa::here().map(Isa::name).collect();
        let found = self.read(key, read, || {
            format!("auto, {} on this processor", here.join(", "))
        })?;
        Ok(found.flatten())
    }

    /// A filter for the log.
    pub(super) fn log_filter(&self, key: &str) -> Result<Option<String>, String> {
        let read = |text: &str| EnvFilter::try_new(text).ok().map(|_| text.to_owned());
        self.read(key, read, || {
            "a level (error, warn, info, debug, trace) or parts such as koma_engine=debug,info"
                .to_owned()
        })
    }

    pub(super) fn read<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Option<T>,
        allowed: impl Fn() -> String,
    ) -> Result<Option<T>, String> {
        self.get(key)
            .map(|typed| read_one(typed, &read, &allowed))
            .transpose()
    }
}

/// Reads one value, or says where it stands, what it is and what is allowed.
pub(super) fn read_one<T>(
    typed: &Typed,
    read: impl Fn(&str) -> Option<T>,
    allowed: impl Fn() -> String,
) -> Result<T, String> {
    read(typed.text.trim()).ok_or_else(|| {
        let Typed { text, origin } = typed;
        let by_kubernetes = matches!(origin, Origin::Variable(_)) && text.contains("://");
        let hint = if by_kubernetes {
            " (Kubernetes sets this variable for a service called `koma`: set enableServiceLinks to false)"
        } else {
            ""
        };
        format!("{origin}: `{text}` is not possible; allowed: {}{hint}", allowed())
    })
}

/// `512M`, `2GiB`, `1.5 GB`, `4096`: bytes, at least 1.
pub(super) fn parse_size(text: &str) -> Option<usize> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let (prefix, base) = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => return exact(number),
        "k" | "kib" => (1, 1024_f64),
        "m" | "mib" => (2, 1024.0),
        "g" | "gib" => (3, 1024.0),
        "t" | "tib" => (4, 1024.0),
        "kb" => (1, 1000.0),
        "mb" => (2, 1000.0),
        "gb" => (3, 1000.0),
        "tb" => (4, 1000.0),
        _ => return None,
    };
    exact((number * base.powi(prefix)).floor())
}

/// A number of bytes that f64 holds exactly.
fn exact(bytes: f64) -> Option<usize> {
    let fits = (1.0..=9_007_199_254_740_992.0).contains(&bytes) && bytes.fract() == 0.0;
    fits.then_some(bytes as usize)
}
